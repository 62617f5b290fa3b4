// Largest, mean or sum of a window, for the active rows; taps outside the map are left out. A window that lies outside
// as a whole gives -inf or 0, as torch has it.
//
//   f32_cached_pool2d_plain
//       each row, channel and tap in turn: the oracle
//   f32_cached_pool2d_*
//       the taps inside the map are listed once a row, then 4 vectors of channels run over them
#pragma once
#include "target.h"
#if !defined(FLUX_LANES)
#include <cmath>
#endif

namespace flux {
namespace {

inline float divisor(const Pool2d& p, int hits) {
    if (p.kind != Pool::mean) return 1;
    return p.divisor != 0 ? p.divisor : (float)(hits ? hits : 1);
}

#if !defined(FLUX_LANES)

void cached_pool2d(const Pool2d& p) {
    float* scratch = static_cast<float*>(p.scratch);
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const int32_t cell = p.out.cells[first + i];
            const int y = cell / p.out.width * p.stride_y, x = cell % p.out.width * p.stride_x;
            float* row = row_of(p.out, scratch, first, i);
            for (int c = 0; c < p.out.channels; ++c) {
                int hits = 0;
                double total = p.kind == Pool::max ? (double)-INFINITY : 0;
                for (int t = 0; t < p.taps; ++t) {
                    const int iy = y + p.tap_y[t], ix = x + p.tap_x[t];
                    if (iy < 0 || iy >= p.in.height || ix < 0 || ix >= p.in.width) continue;
                    const float v = p.in.at[((ptrdiff_t)iy * p.in.width + ix) * p.in.step + c];
                    if (p.kind != Pool::max) {
                        total += v;
                    } else if (v > total || v != v) {
                        total = v;
                    }
                    ++hits;
                }
                row[c] = (float)(total / divisor(p, hits));
            }
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

#else

template <int N, bool kMax>
FLUX_INLINE void pool_channels(const float* const* taps, int hits, int channel, int lanes, float scale, float* row) {
    V acc[N];
    if (!hits) {
        for (int j = 0; j < N; ++j) acc[j] = kMax ? splat(-__builtin_inff()) : V{};
    }
    for (int t = 0; t < hits; ++t) {
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) {
            const float* in = taps[t] + channel + j * kLanes;
            const V v = N == 1 ? load(in, lanes) : load(in);
            if (t == 0) {
                acc[j] = v;
            } else if (kMax) {
                acc[j] = (acc[j] >= v) | (acc[j] != acc[j]) ? acc[j] : v;  // a NaN stays
            } else {
                acc[j] += v;
            }
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
        if (!kMax) acc[j] *= scale;
        float* out = row + channel + j * kLanes;
        N == 1 ? store(out, acc[j], lanes) : store(out, acc[j]);
    }
}

template <bool kMax>
void pool_rows(const Pool2d& p) {
    float* scratch = static_cast<float*>(p.scratch);
    const float** taps =
        reinterpret_cast<const float**>(scratch + rows_scratch((size_t)p.out.channels) / sizeof(float));
    const int channels = p.out.channels;
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const int32_t cell = p.out.cells[first + i];
            const int y = cell / p.out.width * p.stride_y, x = cell % p.out.width * p.stride_x;
            float* row = row_of(p.out, scratch, first, i);
            int hits = 0;
            for (int t = 0; t < p.taps; ++t) {
                const int iy = y + p.tap_y[t], ix = x + p.tap_x[t];
                if (iy < 0 || iy >= p.in.height || ix < 0 || ix >= p.in.width) continue;
                taps[hits++] = p.in.at + ((ptrdiff_t)iy * p.in.width + ix) * p.in.step;
            }
            const float scale = 1 / divisor(p, hits);
            int c = 0;
            for (; c + 4 * kLanes <= channels; c += 4 * kLanes)
                pool_channels<4, kMax>(taps, hits, c, kLanes, scale, row);
            for (; c < channels; c += kLanes) {
                pool_channels<1, kMax>(taps, hits, c, channels - c < kLanes ? channels - c : kLanes, scale, row);
            }
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

void cached_pool2d(const Pool2d& p) { p.kind == Pool::max ? pool_rows<true>(p) : pool_rows<false>(p); }

#endif

}  // namespace
}  // namespace flux
