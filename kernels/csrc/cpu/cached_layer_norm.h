// Layer norm of the active rows over their channels.
//
//   f32_cached_layer_norm_plain   mean, then variance, then the row, in double: the oracle
//   f32_cached_layer_norm_*       the same three passes on vectors
#pragma once
#include "target.h"
#if !defined(FLUX_LANES)
#include <cmath>
#endif

namespace flux {
namespace {

#if !defined(FLUX_LANES)

void cached_layer_norm(const LayerNorm& p) {
    float* scratch = static_cast<float*>(p.scratch);
    const int channels = p.out.channels;
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const float* in = p.in.at + p.out.cells[first + i] * p.in.step;
            float* row = row_of(p.out, scratch, first, i);
            double mean = 0, variance = 0;
            for (int c = 0; c < channels; ++c) mean += in[c];
            mean /= channels;
            for (int c = 0; c < channels; ++c) variance += (in[c] - mean) * (in[c] - mean);
            const double scale = 1 / std::sqrt(variance / channels + (double)p.epsilon);
            for (int c = 0; c < channels; ++c) {
                row[c] = (float)((in[c] - mean) * scale * (p.gamma ? p.gamma[c] : 1) + (p.beta ? p.beta[c] : 0));
            }
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

#else

void cached_layer_norm(const LayerNorm& p) {
    float* scratch = static_cast<float*>(p.scratch);
    const int channels = p.out.channels, full = channels / kLanes * kLanes;
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const float* in = p.in.at + p.out.cells[first + i] * p.in.step;
            float* row = row_of(p.out, scratch, first, i);
            float mean = sum_of(full, [&](int c) { return load(in + c); });
            for (int c = full; c < channels; ++c) mean += in[c];
            mean /= (float)channels;
            // `off` is what rounding left in the mean: channels that differ little beside a large mean need it.
            float off = sum_of(full, [&](int c) { return load(in + c) - mean; });
            float variance = sum_of(full, [&](int c) {
                const V v = load(in + c) - mean;
                return v * v;
            });
            for (int c = full; c < channels; ++c) {
                off += in[c] - mean;
                variance += (in[c] - mean) * (in[c] - mean);
            }
            off /= (float)channels;
            variance = variance / (float)channels - off * off;
            const float scale = 1 / __builtin_sqrtf((variance > 0 ? variance : 0 * variance) + p.epsilon);
            for (int c = 0; c < full; c += kLanes) {
                V v = (load(in + c) - mean - off) * scale;
                if (p.gamma) v *= load(p.gamma + c);
                if (p.beta) v += load(p.beta + c);
                store(row + c, v);
            }
            for (int c = full; c < channels; ++c) {
                row[c] = (in[c] - mean - off) * scale * (p.gamma ? p.gamma[c] : 1) + (p.beta ? p.beta[c] : 0);
            }
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

#endif

}  // namespace
}  // namespace flux
