// Means of attention corrected by the keys that changed: with D the sum of weights exp(score - offset) of a row and head,
//
//   D' = D + sum of new weights - sum of old ones,   mean' = (mean D + sum of new w v - sum of old w v) / D'
//
//   f32_correct_attention_plain
//       each row and head in turn, in double
//   f32_correct_attention_4x8_vec128, _6x16_avx2, _14x32_avx512
//       the tiles of cached_attention over the changed keys as they are, then as they were with weights below zero
//
// A row is poor where a new score is far above its offset, where D fell far below what it was (what is left then is
// rounding), or where anything is not finite.
#pragma once
#include "cached_attention.h"

namespace flux {
namespace {

// Whether a row and head must be computed anew; else its sums take the new one.
inline bool keep_total(float* sums, float total, float top) {
    const float most = total > sums[2] ? total : sums[2];
    if (!(top <= sums[0] + kMostAbove && total >= most * kLeastLeft)) return true;
    sums[1] = total;
    sums[2] = most;
    return false;
}

inline bool is_finite(const float* row, int n) {
    int c = 0;
    float odd = 0;
#if defined(FLUX_LANES)
    V all = {};
    for (; c + kLanes <= n; c += kLanes) {
        const V v = load(row + c);
        all += v - v;
    }
    odd = sum(all);
#endif
    for (; c < n; ++c) odd += row[c] - row[c];
    return odd == 0;
}

#if !defined(FLUX_LANES)

void correct_attention(const Correction& correction) {
    const Attention& p = correction.now;
    double* weights = static_cast<double*>(p.scratch);  // as they are, then as they were
    for (int i = 0; i < p.out.count; ++i) {
        const int32_t cell = p.out.cells[i];
        float* row = p.out.at + cell * p.out.step;
        bool poor = false;
        for (int h = 0; h < p.heads; ++h) {
            const float* q = p.q.at + cell * p.q.step + h * p.dim;
            float* sums = p.sums + ((ptrdiff_t)cell * p.heads + h) * kSums;
            const double was = sums[1];
            double top = -HUGE_VAL, total = was;
            for (int j = 0; j < 2 * p.members; ++j) {
                const bool old = j >= p.members;
                const Map& map = old ? correction.k_old : p.k;
                const float* k = map.at + p.keys[old ? j - p.members : j] * map.step + h * p.dim;
                double score = 0;
                for (int c = 0; c < p.dim; ++c) score += (double)q[c] * k[c];
                score *= p.scale;
                if (!old && !(score <= top)) top = score;
                weights[j] = old ? -std::exp(score - sums[0]) : std::exp(score - sums[0]);
                total += weights[j];
            }
            poor |= keep_total(sums, (float)total, (float)top);
            for (int c = h * p.value_dim; c < (h + 1) * p.value_dim; ++c) {
                double sum = row[c] * was;
                for (int j = 0; j < p.members; ++j)
                    sum += weights[j] * p.v.at[p.keys[j] * p.v.step + c] +
                           weights[p.members + j] * correction.v_old.at[p.keys[j] * correction.v_old.step + c];
                row[c] = (float)(sum / total);
            }
        }
        correction.poor[i] = poor || !is_finite(row, p.out.channels);
    }
}

#else

// Scores to weights, below zero from key `fresh` on; `totals` are their sums, `tops` the largest of the first scores.
template <int N>
__attribute__((noinline)) void weigh_change(float* scores, int fresh, int members, const float* offsets, float* totals,
                                            float* tops) {
    constexpr int kPanel = N * kLanes;
    V offset[N], top[N], total[N] = {};
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
        offset[j] = load(offsets + j * kLanes);
        top[j] = load(scores + j * kLanes);
    }
    for (ptrdiff_t key = 0; key < members; ++key) {
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) {
            float* at = scores + key * kPanel + j * kLanes;
            const V score = load(at);
            V weight = exp(score - offset[j]);
            if (key < fresh) {
                top[j] = at_least(score, top[j]);
            } else {
                weight = -weight;
            }
            total[j] += weight;
            store(at, weight);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
        store(totals + j * kLanes, total[j]);
        store(tops + j * kLanes, top[j]);
    }
}

// One head of n rows from `first`; `p` has the changed keys twice.
template <int M, int N>
void correct(const Attention& p, const Tile& t, int head, int first, int n, uint8_t* poor) {
    constexpr int kPanel = N * kLanes;
    alignas(64) float offsets[kPanel] = {}, totals[kPanel], tops[kPanel], shares[kPanel], was[kPanel] = {};
    const auto sums = [&](int i) { return p.sums + ((ptrdiff_t)t.cells[first + i] * p.heads + head) * kSums; };
    for (int i = 0; i < n; ++i) offsets[i] = sums(i)[0];
    score<M, N>(p, t, head, first, n);
    weigh_change<N>(t.scores, p.members / 2, p.members, offsets, totals, tops);
    for (int i = 0; i < n; ++i) {
        was[i] = sums(i)[1];
        const float total = was[i] + totals[i];
        shares[i] = 1.f / total;
        poor[first + i] |= keep_total(sums(i), total, tops[i]);
    }
    mix_all<M, N>(p, t, head, first, n, shares, was);
}

template <int M, int N>
void correct_attention(const Correction& correction) {
    constexpr int kPanel = N * kLanes, kRows = kBlock / kPanel * kPanel;
    const Attention& now = correction.now;
    Attention p = now;
    p.members = 2 * now.members;
    const Tile t = lay_out(p);
    for (int j = 0; j < p.members + M; ++j) {  // a tile that is not full repeats the last key
        const int at = j < p.members ? j : p.members - 1;
        const bool old = at >= now.members;
        const ptrdiff_t key = now.keys[old ? at - now.members : at];
        const Map &k = old ? correction.k_old : now.k, &v = old ? correction.v_old : now.v;
        t.k[j] = k.at + key * k.step;
        t.v[j] = v.at + key * v.step;
    }
    for (int first = 0, n = 0; first < p.out.count; first += n) {
        n = p.out.count - first < kRows ? p.out.count - first : kRows;
        uint8_t* poor = correction.poor + first;
        for (int i = 0; i < n; ++i) {
            const int32_t cell = p.out.cells[first + i];
            t.cells[i] = cell;
            t.q[i] = p.q.at + cell * p.q.step;
            t.to[i] = p.out.at + cell * p.out.step;
            poor[i] = 0;
        }
        for (int head = 0; head < p.heads; ++head) {
            for (int i = 0; i < n; i += kPanel) {
                const int some = n - i < kPanel ? n - i : kPanel;
                if (some <= kLanes) {
                    correct<M, 1>(p, t, head, i, some, poor);
                } else {
                    correct<M, N>(p, t, head, i, some, poor);
                }
            }
        }
        for (int i = 0; i < n; ++i) poor[i] |= !is_finite(t.to[i], p.out.channels);
    }
}

#endif

}  // namespace
}  // namespace flux
