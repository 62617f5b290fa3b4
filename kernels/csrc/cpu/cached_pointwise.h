// A chain of pointwise terms on the active rows: activations, scale and shift, arithmetic with other maps, with a row
// for all cells (per-channel constants, a squeeze-excite vector) or with one value a cell.
//
//   f32_cached_pointwise_plain
//       each row, channel and term in turn: the oracle
//   f32_cached_pointwise_*
//       Rows, at most 1024 floats at a time, go through the terms one after the other in the first-level cache; the first
//       term reads the map, the last writes it. Rows that follow each other in all maps are one long row.
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

// Rows of a map or, without `cells`, of a buffer: row i lies at at + (cells ? cells[i] : i) * step.
struct Rows {
    float* at;
    ptrdiff_t step;
    const int32_t* cells;

    float* row(int i) const { return at + (cells ? cells[i] : i) * step; }
};

template <class F>
FLUX_INLINE void map_row(float* to, const float* from, const float* other, bool single, int n, F&& f) {
    const V one = other && single ? splat(*other) : V{};
    const bool read = other && !single;
    int c = 0;
    for (; c + kLanes <= n; c += kLanes) store(to + c, f(load(from + c), read ? load(other + c) : one));
    if (c < n) store(to + c, f(load(from + c, n - c), read ? load(other + c, n - c) : one), n - c);
}

// A term over rows of n floats.
inline void apply(const Step& s, const Rows& to, const Rows& from, const Rows& other, int rows, int n) {
    const V a = splat(s.a), b = splat(s.b);
    const auto map = [&](auto&& f) {
        for (int i = 0; i < rows; ++i)
            map_row(to.row(i), from.row(i), other.at ? other.row(i) : nullptr, s.single, n, f);
    };
    switch (s.term) {
        case Term::act:
            return choose(s.act, [&](auto chosen) {
                map([&](V x, V o) { return activate<decltype(chosen)::act>(x, a, b, o); });
            });
        case Term::scale:
            return map([&](V x, V) { return x * a + b; });
        case Term::add:
            return map([](V x, V o) { return x + o; });
        case Term::sub:
            return map([](V x, V o) { return x - o; });
        case Term::rsub:
            return map([](V x, V o) { return o - x; });
        case Term::mul:
            return map([](V x, V o) { return x * o; });
        case Term::div:
            return map([](V x, V o) { return x / o; });
        case Term::max:
            return map([](V x, V o) { return (x != x) | (x > o) ? x : o; });
        case Term::min:
            return map([](V x, V o) { return (x != x) | (x < o) ? x : o; });
        case Term::count:
            return;
    }
}

void cached_pointwise(const Pointwise& p) {
    constexpr int kChunk = 1024;
    alignas(64) float buffer[kChunk];
    float* scratch = static_cast<float*>(p.scratch);
    const bool gated = p.out.gate != Gate::none;
    const int channels = p.out.channels, most = channels < kChunk ? kChunk / channels : 1;
    const int width = channels < kChunk ? channels : kChunk;
    const Step nothing = {Term::scale, Act::none, 1, 0, nullptr, 0, false};
    const Step* steps = p.count ? p.steps : &nothing;
    const int count = p.count ? p.count : 1;
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0, rows = 0; i < n; i += rows) {
            rows = n - i < most ? n - i : most;
            const int32_t* cells = p.out.cells + first + i;
            bool together = true;
            for (int k = 1; k < rows; ++k) together &= cells[k] == cells[0] + k;
            for (int c = 0; c < channels; c += width) {
                const int some = channels - c < width ? channels - c : width;
                const Rows in = {const_cast<float*>(p.in.at) + c, p.in.step, cells}, between = {buffer, some, nullptr};
                const Rows out = gated ? Rows{scratch + (ptrdiff_t)i * channels + c, channels, nullptr}
                                       : Rows{p.out.at + c, p.out.step, cells};
                for (int s = 0; s < count; ++s) {
                    const Step& step = steps[s];
                    const Rows from = s ? between : in, to = s + 1 < count ? between : out;
                    const Rows other = {const_cast<float*>(step.other) + (step.other && !step.single ? c : 0),
                                        step.step, cells};
                    // Rows that follow each other everywhere are one long row.
                    const bool long_row = together && from.step == some && to.step == some &&
                                          (!step.other || (!step.single && step.step == some));
                    apply(step, to, from, step.other ? other : Rows{}, long_row ? 1 : rows,
                          long_row ? rows * some : some);
                }
            }
        }
        if (gated) commit(p.out, scratch, first, n);
    }
}

#endif

}  // namespace
}  // namespace flux
