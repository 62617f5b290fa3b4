// Separable linear resize (nearest, bilinear, bicubic, area, antialiased) of the active rows, from tables of taps.
//
//   f32_cached_resample2d_plain
//       each row, channel and pair of taps in turn, summed in double: the oracle
//   f32_cached_resample2d_*
//       pairs of taps are listed once a row, then vectors of channels run over them; a single tap of 1 is a copy
#pragma once
#include "target.h"

namespace flux {
namespace {

#if !defined(FLUX_LANES)

void cached_resample2d(const Resample2d& p) {
    float* scratch = static_cast<float*>(p.scratch);
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const int32_t cell = p.out.cells[first + i];
            const ptrdiff_t y = (ptrdiff_t)(cell / p.out.width) * p.taps_y,
                            x = (ptrdiff_t)(cell % p.out.width) * p.taps_x;
            float* row = row_of(p.out, scratch, first, i);
            for (int c = 0; c < p.out.channels; ++c) {
                double total = 0;
                for (int ty = 0; ty < p.taps_y; ++ty) {
                    for (int tx = 0; tx < p.taps_x; ++tx) {
                        const int iy = p.index_y[y + ty], ix = p.index_x[x + tx];
                        if (iy < 0 || ix < 0) continue;
                        total += (double)p.weight_y[y + ty] * p.weight_x[x + tx] *
                                 p.in.at[((ptrdiff_t)iy * p.in.width + ix) * p.in.step + c];
                    }
                }
                row[c] = (float)total;
            }
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

#else

struct Pair {
    const float* at;
    float weight;
};

void cached_resample2d(const Resample2d& p) {
    float* scratch = static_cast<float*>(p.scratch);
    Pair* pairs = reinterpret_cast<Pair*>(scratch + rows_scratch((size_t)p.out.channels) / sizeof(float));
    const int channels = p.out.channels;
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const int32_t cell = p.out.cells[first + i];
            const ptrdiff_t y = (ptrdiff_t)(cell / p.out.width) * p.taps_y,
                            x = (ptrdiff_t)(cell % p.out.width) * p.taps_x;
            float* row = row_of(p.out, scratch, first, i);
            int hits = 0;
            for (int ty = 0; ty < p.taps_y; ++ty) {
                const int iy = p.index_y[y + ty];
                for (int tx = 0; tx < p.taps_x; ++tx) {
                    const int ix = p.index_x[x + tx];
                    const float weight = p.weight_y[y + ty] * p.weight_x[x + tx];
                    if (iy < 0 || ix < 0) continue;
                    pairs[hits++] = {p.in.at + ((ptrdiff_t)iy * p.in.width + ix) * p.in.step, weight};
                }
            }
            if (hits == 1 && pairs[0].weight == 1) {
                memcpy(row, pairs[0].at, sizeof(float) * (size_t)channels);
                continue;
            }
            int c = 0;
            for (; c + kLanes <= channels; c += kLanes) {
                V total = {};
                for (int t = 0; t < hits; ++t) total += load(pairs[t].at + c) * pairs[t].weight;
                store(row + c, total);
            }
            for (; c < channels; ++c) {
                float total = 0;
                for (int t = 0; t < hits; ++t) total += pairs[t].at[c] * pairs[t].weight;
                row[c] = total;
            }
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

#endif

}  // namespace
}  // namespace flux
