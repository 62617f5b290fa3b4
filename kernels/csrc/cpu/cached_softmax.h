// Softmax of the active rows over their channels.
//
//   f32_cached_softmax_plain   largest, exponentials, their sum in double, quotient: the oracle
//   f32_cached_softmax_*       the same passes on vectors
#pragma once
#include "activation.h"
#include "target.h"

namespace flux {
namespace {

#if !defined(FLUX_LANES)

void cached_softmax(const Softmax& p) {
    float* scratch = static_cast<float*>(p.scratch);
    const int channels = p.out.channels;
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const float* in = p.in.at + p.out.cells[first + i] * p.in.step;
            float* row = row_of(p.out, scratch, first, i);
            double top = in[0] * p.scale, total = 0;
            for (int c = 1; c < channels; ++c) top = in[c] * p.scale > top ? in[c] * p.scale : top;
            for (int c = 0; c < channels; ++c) total += std::exp((double)in[c] * p.scale - top);
            for (int c = 0; c < channels; ++c) row[c] = (float)(std::exp((double)in[c] * p.scale - top) / total);
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

#else

void cached_softmax(const Softmax& p) {
    float* scratch = static_cast<float*>(p.scratch);
    const int channels = p.out.channels, full = channels / kLanes * kLanes, rest = channels - full;
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const float* in = p.in.at + p.out.cells[first + i] * p.in.step;
            float* row = row_of(p.out, scratch, first, i);
            V most = splat(in[0] * p.scale);
            for (int c = 0; c < full; c += kLanes) most = at_least(load(in + c) * p.scale, most);
            float top = largest(most);
            for (int c = full; c < channels; ++c) top = in[c] * p.scale > top ? in[c] * p.scale : top;
            float total = sum_of(full, [&](int c) {
                const V v = exp(load(in + c) * p.scale - top);
                store(row + c, v);
                return v;
            });
            if (rest) {
                store(row + full, exp(load(in + full, rest) * p.scale - top), rest);
                for (int c = full; c < channels; ++c) total += row[c];
            }
            const float share = 1 / total;
            for (int c = 0; c < full; c += kLanes) store(row + c, load(row + c) * share);
            for (int c = full; c < channels; ++c) row[c] *= share;
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

#endif

}  // namespace
}  // namespace flux
