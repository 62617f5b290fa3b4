// Depthwise convolution of the active rows: each output channel reads its own input channel.
//
//   f32_cached_depthwise2d_plain
//       each row, channel and tap in turn, summed in double: the oracle
//   f32_cached_depthwise2d_4x8_vec128
//       as below, on vectors of 4
//   f32_cached_depthwise2d_4x16_avx2
//       A tile of 4 rows x 16 channels stays in 8 registers over the taps: a step loads 2 vectors of weights once for
//       the 4 rows. Rows find their inputs as in cached_conv2d.
//   f32_cached_depthwise2d_4x32_avx512
//       as above, on vectors of 16
#pragma once
#include "cached_conv2d.h"

namespace flux {
namespace {

#if !defined(FLUX_LANES)

void cached_depthwise2d(const Conv2d& p) {
    float* scratch = static_cast<float*>(p.scratch);
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const int32_t cell = p.out.cells[first + i];
            const int y = cell / p.out.width / p.up_y * p.stride_y, x = cell % p.out.width / p.up_x * p.stride_x;
            float* row = row_of(p.out, scratch, first, i);
            for (int c = 0; c < p.groups; ++c) {
                double total = p.bias[c];
                for (int t = 0; t < p.taps; ++t) {
                    const int iy = y + p.tap_y[t], ix = x + p.tap_x[t];
                    if (iy < 0 || iy >= p.in.height || ix < 0 || ix >= p.in.width) continue;
                    total += (double)p.in.at[((ptrdiff_t)iy * p.in.width + ix) * p.in.step + c] *
                             p.weights[(ptrdiff_t)t * p.groups + c];
                }
                const float residual = p.end.residual ? p.end.residual[cell * p.end.residual_step + c] : 0;
                float value = (float)total;
                if (p.end.residual_first) value += residual;
                value = activate(p.end.act, value, p.end.a, p.end.b, p.end.slope ? p.end.slope[c] : 0);
                row[c] = p.end.residual_first ? value : value + residual;
            }
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

#else

// Sums of the M rows of a tile for N vectors of channels from `channel`; if not kFull, N is 1 and has `width` channels.
template <int M, int N, bool kInside, bool kFull>
__attribute__((noinline)) void multiply_channels(const Conv2d& p, const float* const* rows, const Run* runs,
                                                 int channel, int width, float* sums) {
    static_assert(kFull || N == 1);
    const ptrdiff_t padded = (p.groups + kLanes - 1) / kLanes * kLanes;
    const float* w = p.weights + channel;
    V acc[M][N];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) acc[i][j] = load(p.bias + channel + j * kLanes);
    }
    for (int t = 0; t < p.taps; ++t, w += padded) {
        const float* in[M];
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) in[i] = (kInside ? rows[i] + runs[t].offset : rows[t * M + i]) + channel;
        V b[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) b[j] = load(w + j * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
            for (int j = 0; j < N; ++j) {
                acc[i][j] += (kFull ? load(in[i] + j * kLanes) : load(in[i], width)) * b[j];
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) store(sums + (i * N + j) * kLanes, acc[i][j]);
    }
}

template <int M, int N>
void cached_depthwise2d(const Conv2d& p) {
    constexpr int kWidth = N * kLanes;
    const Block b = begin_block(p.scratch, p.taps, p.tap_y, p.tap_x);
    for (int t = 0; t < p.taps; ++t) {  // taps are never merged here: each has its own vector of weights
        b.runs[t] = {((ptrdiff_t)p.tap_y[t] * p.in.width + p.tap_x[t]) * p.in.step, 1};
    }
    choose(p.end.act, [&](auto chosen) {
        alignas(64) float sums[M * kWidth];
        for (int first = 0; first < p.out.count; first += kBlock) {
            const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
            locate<M>(p, b, first, n);
            for (int i = 0; i < n; i += M) {
                const int some = n - i < M ? n - i : M;
                const bool inside = b.inside[i / M];
                const float* const* rows = inside ? b.base + i : b.table + (ptrdiff_t)i * p.taps;
                const int32_t* cells = p.out.cells + first + i;
                const auto work = [&](auto vectors, auto full, int channel, int width) {
                    constexpr int kVectors = decltype(vectors)::value;
                    constexpr bool kFull = decltype(full)::value;
                    if (inside) {
                        multiply_channels<M, kVectors, true, kFull>(p, rows, b.runs, channel, width, sums);
                    } else {
                        multiply_channels<M, kVectors, false, kFull>(p, rows, b.runs, channel, width, sums);
                    }
                    finish<decltype(chosen)::act, kVectors>(p, sums, b.to + i, cells, some, channel, width);
                };
                int channel = 0;
                for (; channel + kWidth <= p.groups; channel += kWidth)
                    work(Count<N>{}, Count<true>{}, channel, kWidth);
                for (; channel + kLanes <= p.groups; channel += kLanes)
                    work(Count<1>{}, Count<true>{}, channel, kLanes);
                if (channel < p.groups) work(Count<1>{}, Count<false>{}, channel, p.groups - channel);
            }
            if (p.out.gate != Gate::none) commit(p.out, b.rows, first, n);
        }
    });
}

#endif

}  // namespace
}  // namespace flux
