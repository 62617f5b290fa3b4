// Depthwise convolution of the active rows: each output channel reads its own input channel.
//
//   f32_cached_depthwise2d_plain
//       each row, channel and tap in turn, summed in double: the oracle
//   f32_cached_depthwise2d_4x8_vec128
//       as below, on vectors of 4
//   f32_cached_depthwise2d_4x16_avx2
//       Rows in lines with taps in lines go by pieces of up to 10 rows x 8 channels, each input loaded once for all taps
//       of a line (see lines.h). Else a tile of 4 rows x 16 channels stays in 8 registers over the taps: a step loads 2
//       vectors of weights once for the 4 rows. Rows find their inputs as in cached_conv2d.
//   f32_cached_depthwise2d_4x32_avx512
//       as above, on vectors of 16 and with pieces of up to 16 rows
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

// Sums of the M rows of a tile for N vectors of channels; if not kFull, N is 1 and it has only the channels of `sums`.
template <int M, int N, bool kInside, bool kFull>
__attribute__((noinline)) void multiply_channels(const float* const* rows, const Run* runs, int taps, int channel,
                                                 const float* w, ptrdiff_t pitch, const float* bias, const Sums& sums) {
    static_assert(kFull || N == 1);
    w += channel;
    V acc[M][N];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) acc[i][j] = load(bias + channel + j * kLanes);
    }
    for (int t = 0; t < taps; ++t, w += pitch) {
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
                acc[i][j] += (kFull ? load(in[i] + j * kLanes) : load(in[i], sums.width)) * b[j];
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
        if (i >= sums.rows) break;
        store_sums<N>(sums, i, acc[i]);
    }
}

// Calls f(vectors, full, channel, width) for all channels, N vectors at once and what is left one by one.
template <int N, class F>
FLUX_INLINE void each_channels(int channels, F&& f) {
    int channel = 0;
    for (; channel + N * kLanes <= channels; channel += N * kLanes) f(Count<N>{}, Count<1>{}, channel, N * kLanes);
    for (; N > 1 && channel + kLanes <= channels; channel += kLanes) f(Count<1>{}, Count<1>{}, channel, kLanes);
    if (channel < channels) f(Count<1>{}, Count<0>{}, channel, channels - channel);
}

template <int M, int N>
void cached_depthwise2d(const Conv2d& p) {
    const Block b = begin_block(p.scratch, p.taps, p.tap_y, p.tap_x);
    const int line = line_width(p);
    const ptrdiff_t pitch = (p.groups + kLanes - 1) / kLanes * kLanes;
    for (int t = 0; t < p.taps; ++t) {  // taps are never merged here: each has its own vector of weights
        b.runs[t] = {((ptrdiff_t)p.tap_y[t] * p.in.width + p.tap_x[t]) * p.in.step, 1};
    }
    const Finish<(M > kPiece ? M : kPiece), N> end(p.end);
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        const int32_t* cells = p.out.cells + first;
        const bool pieces = line && in_pieces(cells, n);
        locate<M>(p, b, cells, n, pieces);
        for (int i = 0, some = 0; pieces && i < n; i += some) {
            some = piece_length(cells + i, n - i, p.out.width);
            choose_lines(some, p.stride_x, line, [&](auto rows, auto stride, auto taps) {
                constexpr int R = decltype(rows)::value, S = decltype(stride)::value, K = decltype(taps)::value;
                find_lines(p, K, R, cells[i], b.lines);
                each_channels<1>(p.groups, [&](auto, auto full, int channel, int width) {
                    multiply_line_channels<R, S, K, decltype(full)::value>(b.lines, p.taps / K, channel, p.weights,
                                                                           pitch, p.bias,
                                                                           end.take(b.to + i, channel, some, width));
                    end.done(p, b.to + i, cells + i, channel, some, width);
                });
            });
        }
        for (int i = 0; !pieces && i < n; i += M) {
            const int some = n - i < M ? n - i : M;
            const bool inside = b.inside[i / M];
            const float* const* rows = inside ? b.base + i : b.table + (ptrdiff_t)i * p.taps;
            each_channels<N>(p.groups, [&](auto vectors, auto full, int channel, int width) {
                constexpr int kVectors = decltype(vectors)::value;
                constexpr bool kFull = decltype(full)::value;
                const Sums sums = end.take(b.to + i, channel, some, width);
                if (inside) {
                    multiply_channels<M, kVectors, true, kFull>(rows, b.runs, p.taps, channel, p.weights, pitch, p.bias,
                                                                sums);
                } else {
                    multiply_channels<M, kVectors, false, kFull>(rows, b.runs, p.taps, channel, p.weights, pitch,
                                                                 p.bias, sums);
                }
                end.done(p, b.to + i, cells + i, channel, some, width);
            });
        }
        if (p.out.gate != Gate::none) commit(p.out, b.rows, first, n);
    }
}

#endif

}  // namespace
}  // namespace flux
