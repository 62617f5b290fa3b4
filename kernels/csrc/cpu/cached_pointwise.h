// A chain of pointwise terms on the active rows: activations, scale and shift, arithmetic with other maps, with a row
// for all cells (per-channel constants, a squeeze-excite vector) or with one value a cell.
//
//   f32_cached_pointwise_plain
//       each row, channel and term in turn: the oracle
//   f32_cached_pointwise_*
//       A row, at most 512 channels at a time, goes through the terms one after the other in the first-level cache;
//       the term is chosen once for the row.
#pragma once
#include "activation.h"
#include "target.h"

namespace flux {
namespace {

#if !defined(FLUX_LANES)

inline float apply(const Step& s, float v, float other) {
    switch (s.term) {
        case Term::act:
            return activate(s.act, v, s.a, s.b, other);
        case Term::scale:
            return v * s.a + s.b;
        case Term::add:
            return v + other;
        case Term::sub:
            return v - other;
        case Term::rsub:
            return other - v;
        case Term::mul:
            return v * other;
        case Term::div:
            return v / other;
        case Term::max:
            return v != v || v > other ? v : other;
        case Term::min:
            return v != v || v < other ? v : other;
        case Term::count:
            break;
    }
    return v;
}

void cached_pointwise(const Pointwise& p) {
    float* scratch = static_cast<float*>(p.scratch);
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const int32_t cell = p.out.cells[first + i];
            float* row = row_of(p.out, scratch, first, i);
            for (int c = 0; c < p.out.channels; ++c) {
                float v = p.in.at[cell * p.in.step + c];
                for (int s = 0; s < p.count; ++s) {
                    const Step& step = p.steps[s];
                    v = apply(step, v, step.other ? step.other[cell * step.step + (step.single ? 0 : c)] : 0);
                }
                row[c] = v;
            }
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

#else

template <class F>
FLUX_INLINE void map_row(float* v, const float* other, bool single, int n, F&& f) {
    const V one = other && single ? splat(*other) : V{};
    const bool read = other && !single;
    int c = 0;
    for (; c + kLanes <= n; c += kLanes) store(v + c, f(load(v + c), read ? load(other + c) : one));
    if (c < n) store(v + c, f(load(v + c, n - c), read ? load(other + c, n - c) : one), n - c);
}

inline void apply(const Step& s, float* v, const float* other, int n) {
    const V a = splat(s.a), b = splat(s.b);
    switch (s.term) {
        case Term::act:
            return choose(s.act, [&](auto chosen) {
                map_row(v, other, s.single, n, [&](V x, V o) { return activate<decltype(chosen)::act>(x, a, b, o); });
            });
        case Term::scale:
            return map_row(v, other, s.single, n, [&](V x, V) { return x * a + b; });
        case Term::add:
            return map_row(v, other, s.single, n, [](V x, V o) { return x + o; });
        case Term::sub:
            return map_row(v, other, s.single, n, [](V x, V o) { return x - o; });
        case Term::rsub:
            return map_row(v, other, s.single, n, [](V x, V o) { return o - x; });
        case Term::mul:
            return map_row(v, other, s.single, n, [](V x, V o) { return x * o; });
        case Term::div:
            return map_row(v, other, s.single, n, [](V x, V o) { return x / o; });
        case Term::max:
            return map_row(v, other, s.single, n, [](V x, V o) { return (x != x) | (x > o) ? x : o; });
        case Term::min:
            return map_row(v, other, s.single, n, [](V x, V o) { return (x != x) | (x < o) ? x : o; });
        case Term::count:
            return;
    }
}

void cached_pointwise(const Pointwise& p) {
    constexpr int kChunk = 512;
    alignas(64) float v[kChunk];
    float* scratch = static_cast<float*>(p.scratch);
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const int32_t cell = p.out.cells[first + i];
            float* row = row_of(p.out, scratch, first, i);
            for (int c = 0; c < p.out.channels; c += kChunk) {
                const int some = p.out.channels - c < kChunk ? p.out.channels - c : kChunk;
                memcpy(v, p.in.at + cell * p.in.step + c, sizeof(float) * (size_t)some);
                for (int s = 0; s < p.count; ++s) {
                    const Step& step = p.steps[s];
                    apply(step, v, step.other ? step.other + cell * step.step + (step.single ? 0 : c) : nullptr, some);
                }
                memcpy(row + c, v, sizeof(float) * (size_t)some);
            }
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

#endif

}  // namespace
}  // namespace flux
