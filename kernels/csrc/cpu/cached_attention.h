// Attention of the active rows: softmax(scale * q k' + bias) v, head by head, over the keys of each row's group.
//
//   f32_cached_attention_plain
//       each row and head in turn: scores, softmax and the mean of v in double, the oracle
//   f32_cached_attention_4x8_vec128
//       as below, on vectors of 4
//   f32_cached_attention_6x16_avx2
//       Rows are gathered by group, however their cells interleave (windows), and taken 16 at a time, so that vectors
//       run over queries: the tile's q is turned once, k is read in place as the rows of the product of cached_conv2d
//       (6 keys x 16 queries), and softmax needs no sum across lanes. Weights times v, read in place, is tiles of
//       4 queries x 16 channels.
//   f32_cached_attention_14x32_avx512
//       as above, 14 keys x 32 queries, then 8 queries x 32 channels
//
// Nothing is packed a call, so that the time goes with the active rows, but for filling up the last tile of a group.
#pragma once
#include "cached_conv2d.h"

namespace flux {
namespace {

// Of a row and head that was computed.
inline void keep_sums(const Attention& p, int32_t cell, int head, float offset, float total) {
    if (!p.sums) return;
    float* at = p.sums + ((ptrdiff_t)cell * p.heads + head) * kSums;
    at[0] = offset;
    at[1] = at[2] = total;
}

#if !defined(FLUX_LANES)

void cached_attention(const Attention& p) {
    double* scores = static_cast<double*>(p.scratch);
    float* scratch = static_cast<float*>(p.scratch) + round64((size_t)p.members * sizeof(double)) / sizeof(float);
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const int32_t cell = p.out.cells[first + i];
            const ptrdiff_t group = p.group_of ? p.group_of[cell] : 0, member = p.member_of ? p.member_of[cell] : cell;
            const int32_t* keys = p.keys + group * p.members;
            float* row = row_of(p.out, scratch, first, i);
            for (int h = 0; h < p.heads; ++h) {
                const float* q = p.q.at + cell * p.q.step + h * p.dim;
                const float* bias =
                    p.bias ? p.bias + group * p.bias_group + h * p.bias_head + member * p.members : nullptr;
                double top = 0, total = 0;
                for (int j = 0; j < p.members; ++j) {
                    const float* k = p.k.at + keys[j] * p.k.step + h * p.dim;
                    double score = 0;
                    for (int c = 0; c < p.dim; ++c) score += (double)q[c] * k[c];
                    scores[j] = score * p.scale + (bias ? bias[j] : 0);
                    top = !j || scores[j] > top ? scores[j] : top;
                }
                for (int j = 0; j < p.members; ++j) total += scores[j] = std::exp(scores[j] - top);
                for (int c = h * p.value_dim; c < (h + 1) * p.value_dim; ++c) {
                    double sum = 0;
                    for (int j = 0; j < p.members; ++j) sum += scores[j] * p.v.at[keys[j] * p.v.step + c];
                    row[c] = (float)(sum / total);
                }
                keep_sums(p, cell, h, (float)top, (float)total);
            }
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

#else

// The parts of the scratch memory.
struct Tile {
    const float **k, **v;  // each key's rows
    const float** q;       // each query's row
    float** to;            // where each query's results go
    const float** bias;    // each query's bias, but for the head
    int32_t* cells;
    uint8_t* changed;
    int32_t *order, *other;
    float* turned;  // [dim][query]
    float* scores;  // [key][query]
    float* rows;
};

inline Tile lay_out(const Attention& p) {
    char* at = static_cast<char*>(p.scratch);
    const auto take = [&at](size_t bytes) {
        char* taken = at;
        at += round64(bytes);
        return static_cast<void*>(taken);
    };
    const size_t members = (size_t)p.members + kMostTile;
    Tile t = {};
    t.k = static_cast<const float**>(take(members * sizeof(void*)));
    t.v = static_cast<const float**>(take(members * sizeof(void*)));
    t.q = static_cast<const float**>(take(kBlock * sizeof(void*)));
    t.to = static_cast<float**>(take(kBlock * sizeof(void*)));
    t.bias = static_cast<const float**>(take(kBlock * sizeof(void*)));
    t.cells = static_cast<int32_t*>(take(kBlock * sizeof(int32_t)));
    t.changed = static_cast<uint8_t*>(take(kBlock));
    t.order = static_cast<int32_t*>(take(kGather * sizeof(int32_t)));
    t.other = static_cast<int32_t*>(take(kGather * sizeof(int32_t)));
    t.turned = static_cast<float*>(take((size_t)p.dim * kMostPanel * sizeof(float)));
    t.scores = static_cast<float*>(take(members * kMostPanel * sizeof(float)));
    t.rows = static_cast<float*>(static_cast<void*>(at));
    return t;
}

// Sorts rows 0 .. n, as numbers within `cells`, by their groups, byte by byte from the lowest. Returns the sorted list.
inline const int32_t* gather(const Attention& p, const int32_t* cells, int n, int32_t* order, int32_t* other) {
    for (int i = 0; i < n; ++i) order[i] = i;
    int32_t most = 0;
    for (int i = 0; i < n; ++i) most = p.group_of && p.group_of[cells[i]] > most ? p.group_of[cells[i]] : most;
    for (int shift = 0; shift < 32 && most >> shift; shift += 8) {
        int begin[257] = {};
        for (int i = 0; i < n; ++i) ++begin[(p.group_of[cells[i]] >> shift & 255) + 1];
        for (int b = 0; b < 256; ++b) begin[b + 1] += begin[b];
        for (int i = 0; i < n; ++i) other[begin[p.group_of[cells[order[i]]] >> shift & 255]++] = order[i];
        int32_t* const sorted = other;
        other = order;
        order = sorted;
    }
    return order;
}

// kLanes rows of `width` floats from rows[0 .. n), turned: the vectors of turn[c] hold the rows' c-th floats. Rows that
// are not there are zeros.
FLUX_INLINE void load_turned(const float* const* rows, int n, ptrdiff_t from, int width, V* turned) {
    for (int i = 0; i < kLanes; ++i) turned[i] = i < n ? load(rows[i] + from, width) : V{};
    transpose(turned);
}

// q of a tile as [dim][query], scaled.
template <int N>
__attribute__((noinline)) void turn_queries(const float* const* q, int n, ptrdiff_t from, int dim, float scale,
                                            float* turned) {
    for (int j = 0; j < N; ++j) {
        for (int c = 0; c < dim; c += kLanes) {
            const int width = dim - c < kLanes ? dim - c : kLanes;
            V block[kLanes];
            load_turned(q + j * kLanes, n - j * kLanes, from + c, width, block);
            for (int i = 0; i < width; ++i) store(turned + ((c + i) * N + j) * kLanes, block[i] * scale);
        }
    }
}

template <int N>
__attribute__((noinline)) void add_bias(const float* const* bias, int n, ptrdiff_t from, int members, float* scores) {
    for (int j = 0; j < N; ++j) {
        for (int key = 0; key < members; key += kLanes) {
            const int width = members - key < kLanes ? members - key : kLanes;
            V block[kLanes];
            load_turned(bias + j * kLanes, n - j * kLanes, from + key, width, block);
            for (int i = 0; i < width; ++i) {
                float* at = scores + ((ptrdiff_t)(key + i) * N + j) * kLanes;
                store(at, load(at) + block[i]);
            }
        }
    }
}

// Scores to exp(score - the query's largest), which is its offset.
template <int N>
__attribute__((noinline)) void weigh(float* scores, int members, float* offsets, float* totals) {
    constexpr int kPanel = N * kLanes;
    V top[N], total[N] = {};
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) top[j] = load(scores + j * kLanes);
    for (ptrdiff_t key = 1; key < members; ++key) {
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) top[j] = at_least(load(scores + key * kPanel + j * kLanes), top[j]);
    }
    for (ptrdiff_t key = 0; key < members; ++key) {
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) {
            float* at = scores + key * kPanel + j * kLanes;
            const V weight = exp(load(at) - top[j]);
            total[j] += weight;
            store(at, weight);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
        store(offsets + j * kLanes, top[j]);
        store(totals + j * kLanes, total[j]);
    }
}

// The weighted mean of v for R queries and N vectors of channels; if not kFull, N is 1 and has `width` channels. With
// `was` that many times what is there is part of the sum.
template <int R, int N, int kPanel, bool kFull>
__attribute__((noinline)) void mix(const float* const* v, int members, ptrdiff_t from, int width, const float* weights,
                                   const float* shares, const float* was, float* const* to, int n) {
    static_assert(kFull || N == 1);
    V acc[R][N] = {};
    for (int key = 0; key < members; ++key, weights += kPanel) {
        const float* row = v[key] + from;
        V b[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) b[j] = kFull ? load(row + j * kLanes) : load(row, width);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            const V a = splat(weights[i]);
#pragma GCC unroll 4
            for (int j = 0; j < N; ++j) acc[i][j] += a * b[j];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
        if (i >= n) break;
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) {
            float* out = to[i] + from + j * kLanes;
            V sum =
                acc[i][j];  // in an order that leaves the compiler one way to fuse it: rows must not depend on tiles
            if (was) sum += (kFull ? load(out) : load(out, width)) * was[i];
            kFull ? store(out, sum * shares[i]) : store(out, sum * shares[i], width);
        }
    }
}

// t.scores of one head of n queries from `first`.
template <int M, int N>
void score(const Attention& p, const Tile& t, int head, int first, int n) {
    constexpr int kPanel = N * kLanes;
    alignas(64) static constexpr float zeros[kPanel] = {};
    const ptrdiff_t from = (ptrdiff_t)head * p.dim;
    const Run run = {0, p.dim};
    turn_queries<N>(t.q + first, n, from, p.dim, p.scale, t.turned);
    for (int key = 0; key < p.members; key += M) {
        const int some = p.members - key < M ? p.members - key : M;
        float* rows[M];
        for (int i = 0; i < M; ++i) rows[i] = t.scores + (ptrdiff_t)(key + i) * kPanel;
        multiply_some<M, N, kPanel, true>(t.k + key, &run, 1, p.dim, from, t.turned, zeros,
                                          {rows, 0, some, kPanel, -__builtin_inff(), __builtin_inff()});
    }
    if (p.bias) add_bias<N>(t.bias + first, n, head * p.bias_head, p.members, t.scores);
}

// The means of one head of n queries from `first`, t.scores now being weights; `was` is null or as for `mix`.
template <int M, int N>
void mix_all(const Attention& p, const Tile& t, int head, int first, int n, const float* shares, const float* was) {
    constexpr int kPanel = N * kLanes, kRows = kLanes < 8 ? 4 : M > 8 ? 8 : 4;
    static_assert(kPanel % kRows == 0);
    for (int i = 0; i < n; i += kRows) {
        const float *weights = t.scores + i, *old = was ? was + i : nullptr;
        float* const* to = t.to + first + i;
        int c = head * p.value_dim, end = c + p.value_dim;
        for (; c + 2 * kLanes <= end; c += 2 * kLanes)
            mix<kRows, 2, kPanel, true>(t.v, p.members, c, 0, weights, shares + i, old, to, n - i);
        for (; c + kLanes <= end; c += kLanes)
            mix<kRows, 1, kPanel, true>(t.v, p.members, c, 0, weights, shares + i, old, to, n - i);
        if (c < end) mix<kRows, 1, kPanel, false>(t.v, p.members, c, end - c, weights, shares + i, old, to, n - i);
    }
}

// One head of n queries from `first`.
template <int M, int N>
void attend(const Attention& p, const Tile& t, int head, int first, int n) {
    constexpr int kPanel = N * kLanes;
    alignas(64) float offsets[kPanel], totals[kPanel], shares[kPanel];
    score<M, N>(p, t, head, first, n);
    weigh<N>(t.scores, p.members, offsets, totals);
    for (int j = 0; j < kPanel; j += kLanes) store(shares + j, 1.f / load(totals + j));
    for (int i = 0; i < n; ++i) keep_sums(p, t.cells[first + i], head, offsets[i], totals[i]);
    mix_all<M, N>(p, t, head, first, n, shares, nullptr);
}

template <int M, int N>
void cached_attention(const Attention& p) {
    constexpr int kPanel = N * kLanes, kRows = kBlock / kPanel * kPanel;
    static_assert(M <= kMostTile && kPanel <= kMostPanel);
    const Tile t = lay_out(p);
    const bool gated = p.out.gate != Gate::none;
    for (int from = 0; from < p.out.count; from += kGather) {
        const int count = p.out.count - from < kGather ? p.out.count - from : kGather;
        const int32_t* cells = p.out.cells + from;
        const int32_t* order = gather(p, cells, count, t.order, t.other);
        const auto group_at = [&](int i) { return p.group_of ? p.group_of[cells[order[i]]] : 0; };
        int32_t located = -1;
        for (int first = 0, n = 0; first < count; first += n) {
            const int32_t group = group_at(first);
            for (n = 1; n < kRows && first + n < count && group_at(first + n) == group;) ++n;
            if (group != located) {
                const int32_t* keys = p.keys + (ptrdiff_t)group * p.members;
                for (int j = 0; j < p.members + M; ++j) {  // a tile that is not full repeats the last key
                    const int32_t key = keys[j < p.members ? j : p.members - 1];
                    t.k[j] = p.k.at + key * p.k.step;
                    t.v[j] = p.v.at + key * p.v.step;
                }
                located = group;
            }
            for (int i = 0; i < n; ++i) {
                const int32_t cell = cells[order[first + i]];
                const ptrdiff_t member = p.member_of ? p.member_of[cell] : cell;
                t.cells[i] = cell;
                t.q[i] = p.q.at + cell * p.q.step;
                t.to[i] = gated ? t.rows + (ptrdiff_t)i * p.out.channels : p.out.at + cell * p.out.step;
                t.bias[i] = p.bias ? p.bias + group * p.bias_group + member * p.members : nullptr;
            }
            for (int head = 0; head < p.heads; ++head) {
                for (int i = 0; i < n; i += kPanel) {
                    const int some = n - i < kPanel ? n - i : kPanel;
                    if (some <= kLanes) {
                        attend<M, 1>(p, t, head, i, some);
                    } else {
                        attend<M, N>(p, t, head, i, some);
                    }
                }
            }
            if (!gated) continue;
            Target gathered = p.out;
            gathered.cells = t.cells;
            gathered.changed = t.changed;
            commit(gathered, t.rows, 0, n);
            for (int i = 0; i < n; ++i) p.out.changed[from + order[first + i]] = t.changed[i];
        }
    }
}

#endif

}  // namespace
}  // namespace flux
