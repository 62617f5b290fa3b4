// Where a row of results goes: straight into the map, or first into scratch if a gate must see the whole row.
#pragma once
#include <cstring>
#include "kernels.h"
#if defined(FLUX_LANES)
#include "vec.h"
#endif

namespace flux {
namespace {

inline float* row_of(const Target& out, float* scratch, int first, int i) {
    return out.gate == Gate::none ? out.at + out.cells[first + i] * out.step : scratch + (ptrdiff_t)i * out.channels;
}

inline bool differs(const Target& out, const float* now, const float* was) {
    float most = 0, total = 0;
    int c = 0;
#if defined(FLUX_LANES)
    V top = {}, all = {};
    I odd = {};
    for (; c + kLanes <= out.channels; c += kLanes) {
        const V change = magnitude(load(now + c) - load(was + c));
        top = at_least(top, change);
        all += change;
        odd |= (I)(change != change);
    }
    if (any(odd)) return true;
    most = largest(top);
    total = sum(all);
#endif
    for (; c < out.channels; ++c) {
        const float difference = now[c] - was[c], change = difference < 0 ? -difference : difference;
        if (change != change) return true;
        most = change > most ? change : most;
        total += change;
    }
    return out.gate == Gate::largest ? most > out.bound : total > out.bound * (float)out.channels;
}

// Rows first .. first + n are in scratch: keep those that differ enough from what is there.
inline void commit(const Target& out, const float* scratch, int first, int n) {
    for (int i = 0; i < n; ++i, scratch += out.channels) {
        float* row = out.at + out.cells[first + i] * out.step;
        const bool changed = differs(out, scratch, row);
        out.changed[first + i] = changed;
        if (changed) memcpy(row, scratch, sizeof(float) * (size_t)out.channels);
    }
}

#if defined(FLUX_LANES)

// Where a tile's sums go, held to [low, high] on the way: to the rows themselves or, if more is to be done, to a buffer.
struct Sums {
    float* const* to;   // a row each
    ptrdiff_t channel;  // the first within the row
    int rows, width;    // of the tile's rows and channels, those that are wanted
    float low, high;
};

template <int N>
FLUX_INLINE void store_sums(const Sums& s, int row, const V* sums) {
    const V low = splat(s.low), high = splat(s.high);
    float* to = s.to[row] + s.channel;
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
        const V v = at_most(at_least(sums[j], low), high);
        const int left = s.width - j * kLanes;
        if (left >= kLanes) {
            store(to + j * kLanes, v);
        } else if (left > 0) {
            store(to + j * kLanes, v, left);
        }
    }
}

#endif

}  // namespace
}  // namespace flux
