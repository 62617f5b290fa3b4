// Convolution of the active rows, NHWC, as an indirect matrix product.
//
//   f32_cached_conv2d_plain
//       each row, output channel, tap and input channel in turn, summed in double: the oracle
//   f32_cached_conv2d_4x8_vec128
//       as below, 4 rows x 2 vectors of 4: SSE2, NEON, whatever the compiler has
//   f32_cached_conv2d_6x16_avx2
//       A tile of 6 rows x 16 channels stays in 12 registers over all taps and input channels: each step broadcasts 6
//       inputs and loads 2 vectors of packed weights. Tiles whose windows lie inside the map add one offset a tap to
//       their rows' pointers, and taps that lie side by side in memory are one run; a tile at the border reads a table
//       of pointers, where a tap outside the map points to zeros. A panel of one vector, with taps in lines, over rows
//       in lines, goes by pieces instead (see lines.h).
//   f32_cached_conv2d_14x32_avx512
//       as above, 14 rows x 2 vectors of 16 in 28 registers
//
// Rows are taken in blocks of kBlock, and in a block all tiles use a panel of weights before the next panel is touched:
// the block's inputs and one panel stay in the second-level cache.
#pragma once
#include "activation.h"
#include "target.h"
#if defined(FLUX_LANES)
#include "lines.h"
#endif

namespace flux {
namespace {

#if !defined(FLUX_LANES)

void cached_conv2d(const Conv2d& p) {
    float* scratch = static_cast<float*>(p.scratch);
    const int channels = p.groups * p.out_per_group;
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        for (int i = 0; i < n; ++i) {
            const int32_t cell = p.out.cells[first + i];
            const int y = cell / p.out.width / p.up_y * p.stride_y, x = cell % p.out.width / p.up_x * p.stride_x;
            float* row = row_of(p.out, scratch, first, i);
            for (int o = 0; o < channels; ++o) {
                const int from = o / p.out_per_group * p.in_per_group;
                const float* w = p.weights + (ptrdiff_t)o * p.taps * p.in_per_group;
                double total = p.bias[o];
                for (int t = 0; t < p.taps; ++t, w += p.in_per_group) {
                    const int iy = y + p.tap_y[t], ix = x + p.tap_x[t];
                    if (iy < 0 || iy >= p.in.height || ix < 0 || ix >= p.in.width) continue;
                    const float* in = p.in.at + ((ptrdiff_t)iy * p.in.width + ix) * p.in.step + from;
                    for (int c = 0; c < p.in_per_group; ++c) total += (double)in[c] * w[c];
                }
                const float residual = p.end.residual ? p.end.residual[cell * p.end.residual_step + o] : 0;
                float value = (float)total;
                if (p.end.residual_first) value += residual;
                value = activate(p.end.act, value, p.end.a, p.end.b, p.end.slope ? p.end.slope[o] : 0);
                row[o] = p.end.residual_first ? value : value + residual;
            }
        }
        if (p.out.gate != Gate::none) commit(p.out, scratch, first, n);
    }
}

#else

struct Run {
    ptrdiff_t offset;  // floats from the row's first cell
    ptrdiff_t length;
};

// The parts of the scratch memory, and what is known of the block at hand.
struct Block {
    const float** base;   // each row's window origin in the input, if its window lies inside the map
    float** to;           // where each row's results go
    int *y, *x;           // the window's origin as coordinates
    uint8_t* inside;      // one a row, then one a tile: every window of it lies inside the map
    const float** table;  // [tile][tap][row of tile], filled for tiles at the border
    const float** lines;  // the same of one piece of rows (see lines.h)
    Run* runs;
    float* rows;
    int low_y, high_y, low_x, high_x;  // the farthest taps
};

inline Block begin_block(void* scratch, int taps, const int32_t* tap_y, const int32_t* tap_x) {
    char* at = static_cast<char*>(scratch);
    const auto take = [&at](size_t bytes) {
        char* taken = at;
        at += round64(bytes);
        return static_cast<void*>(taken);
    };
    Block b = {};
    b.base = static_cast<const float**>(take(kBlock * sizeof(void*)));
    b.to = static_cast<float**>(take(kBlock * sizeof(void*)));
    b.y = static_cast<int*>(take(kBlock * sizeof(int)));
    b.x = static_cast<int*>(take(kBlock * sizeof(int)));
    b.inside = static_cast<uint8_t*>(take(kBlock));
    b.table = static_cast<const float**>(take(kBlock * (size_t)taps * sizeof(void*)));
    b.lines = static_cast<const float**>(take(kLineCells * (size_t)taps * sizeof(void*)));
    b.runs = static_cast<Run*>(take((size_t)taps * sizeof(Run)));
    b.rows = static_cast<float*>(static_cast<void*>(at));
    b.low_y = b.high_y = tap_y[0];
    b.low_x = b.high_x = tap_x[0];
    for (int t = 1; t < taps; ++t) {
        b.low_y = tap_y[t] < b.low_y ? tap_y[t] : b.low_y;
        b.high_y = tap_y[t] > b.high_y ? tap_y[t] : b.high_y;
        b.low_x = tap_x[t] < b.low_x ? tap_x[t] : b.low_x;
        b.high_x = tap_x[t] > b.high_x ? tap_x[t] : b.high_x;
    }
    return b;
}

// Taps as offsets; taps that follow each other in memory become one run. Returns how many there are.
inline int find_runs(const Conv2d& p, Run* runs) {
    int n = 0;
    for (int t = 0; t < p.taps; ++t) {
        const ptrdiff_t offset = ((ptrdiff_t)p.tap_y[t] * p.in.width + p.tap_x[t]) * p.in.step;
        if (n && runs[n - 1].offset + runs[n - 1].length == offset) {
            runs[n - 1].length += p.in_per_group;
        } else {
            runs[n++] = {offset, p.in_per_group};
        }
    }
    return n;
}

// Finds where n rows read and write, in tiles of M; a last tile that is not full repeats its last row. Or only where
// they write.
template <int M>
void locate(const Conv2d& p, const Block& block, const int32_t* cells, int n, bool only_to) {
    // Copies, since the compiler must take every store below for a change of what they point to.
    const Block b = block;
    const float* in = p.in.at;
    const int width = p.out.width, stride_x = p.stride_x, low_x = -b.low_x, high_x = p.in.width - b.high_x;
    const ptrdiff_t in_step = p.in.step;
    const bool gated = p.out.gate != Gate::none;
    float* out = gated ? b.rows : p.out.at;
    const ptrdiff_t out_step = gated ? p.out.channels : p.out.step;
    for (int i = 0; i < n; ++i) b.to[i] = out + (gated ? i : cells[i]) * out_step;
    if (only_to) return;
    int32_t line_begin = 0, line_end = 0;  // lists mostly ascend, so that dividing is rare
    int y = 0;
    bool line_inside = false;
    for (int i = 0, end = 0; i < n; i = end) {
        const int32_t cell = cells[i];
        if (cell < line_begin || cell >= line_end) {
            const int row = cell / width;
            line_begin = row * width;
            line_end = line_begin + width;
            y = row / p.up_y * p.stride_y;
            line_inside = y + b.low_y >= 0 && y + b.high_y < p.in.height;
        }
        const int column = cell - line_begin, x = (p.up_x == 1 ? column : column / p.up_x) * stride_x;
        for (end = i + 1; p.up_x == 1 && end < n && cells[end] == cell + end - i && cells[end] < line_end;) ++end;
        const float* base = in + ((ptrdiff_t)y * p.in.width + x) * in_step;
        for (int k = i; k < end; ++k) {  // rows side by side
            const int at = x + (k - i) * stride_x;
            b.y[k] = y;
            b.x[k] = at;
            b.inside[k] = line_inside & (at >= low_x) & (at < high_x);
            b.base[k] = base + (k - i) * stride_x * in_step;
        }
    }
    const int tiles = (n + M - 1) / M;
    for (int i = n; i < tiles * M; ++i) {
        b.base[i] = b.base[n - 1];
        b.y[i] = b.y[n - 1];
        b.x[i] = b.x[n - 1];
        b.inside[i] = b.inside[n - 1];
    }
    for (int tile = 0; tile < tiles; ++tile) {
        bool inside = true;
        for (int i = 0; i < M; ++i) inside &= b.inside[tile * M + i] != 0;
        b.inside[tile] = inside;  // at or before the rows it is made of
        if (inside) continue;
        const float** table = b.table + (ptrdiff_t)tile * M * p.taps;
        for (int t = 0; t < p.taps; ++t, table += M) {
            for (int i = 0; i < M; ++i) {
                const int iy = b.y[tile * M + i] + p.tap_y[t], ix = b.x[tile * M + i] + p.tap_x[t];
                const bool hit = iy >= 0 && iy < p.in.height && ix >= 0 && ix < p.in.width;
                table[i] = hit ? p.in.at + ((ptrdiff_t)iy * p.in.width + ix) * p.in.step : p.zero;
            }
        }
    }
}

// rows[i] . weights for R of the M rows of a tile and N vectors of channels.
template <int R, int M, int N, int kPanel, bool kInside>
__attribute__((noinline)) void multiply(const float* const* rows, const Run* runs, int count, ptrdiff_t depth,
                                        ptrdiff_t from, const float* w, const float* bias, const Sums& sums) {
    V acc[R][N];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) acc[i][j] = load(bias + j * kLanes);
    }
    for (int t = 0; t < count; ++t) {
        const float* in[R];
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) in[i] = (kInside ? rows[i] + runs[t].offset : rows[t * M + i]) + from;
        const ptrdiff_t length = kInside ? runs[t].length : depth;
        for (ptrdiff_t c = 0; c < length; ++c, w += kPanel) {
            V b[N];
#pragma GCC unroll 4
            for (int j = 0; j < N; ++j) b[j] = load(w + j * kLanes);
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i) {
                const V a = splat(in[i][c]);
#pragma GCC unroll 4
                for (int j = 0; j < N; ++j) acc[i][j] += a * b[j];
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
        if (i >= sums.rows) break;
        store_sums<N>(sums, i, acc[i]);
    }
}

template <int M, int N, int kPanel, bool kInside>
FLUX_INLINE void multiply_some(const float* const* rows, const Run* runs, int count, ptrdiff_t depth, ptrdiff_t from,
                               const float* w, const float* bias, const Sums& sums) {
    const int n = sums.rows;
    if (n == 1) return multiply<1, M, N, kPanel, kInside>(rows, runs, count, depth, from, w, bias, sums);
    if (n == 2) return multiply<2, M, N, kPanel, kInside>(rows, runs, count, depth, from, w, bias, sums);
    if (M > 4 && n <= 4) return multiply<4, M, N, kPanel, kInside>(rows, runs, count, depth, from, w, bias, sums);
    if (M > 8 && n <= 8)
        return multiply < M<8 ? M : 8, M, N, kPanel, kInside>(rows, runs, count, depth, from, w, bias, sums);
    multiply<M, M, N, kPanel, kInside>(rows, runs, count, depth, from, w, bias, sums);
}

// Activation and residual of n rows of `width` channels, from sums into the rows of the target.
__attribute__((noinline)) inline void finish(const Conv2d& p, const float* sums, int pitch, float* const* to,
                                             const int32_t* cells, int n, int channel, int width) {
    const V a = splat(p.end.a), b = splat(p.end.b);
    choose(p.end.act, [&](auto chosen) {
        constexpr Act kAct = decltype(chosen)::act;
        if (kAct != Act::prelu && !p.end.residual) {
            for (int i = 0, c = 0; i < n;) {  // one loop, so that the activation's constants are loaded once
                const int lanes = width - c < kLanes ? width - c : kLanes;
                store(to[i] + channel + c, activate<kAct>(load(sums + c), a, b, V{}), lanes);
                c += kLanes;
                if (c < width) continue;
                c = 0;
                ++i;
                sums += pitch;
            }
            return;
        }
        for (int i = 0; i < n; ++i, sums += pitch) {
            const float* residual =
                p.end.residual ? p.end.residual + cells[i] * p.end.residual_step + channel : nullptr;
            for (int c = 0; c < width; c += kLanes) {
                const int lanes = width - c < kLanes ? width - c : kLanes;
                V v = load(sums + c);
                const V r = residual ? load(residual + c, lanes) : V{};
                if (p.end.residual_first) v += r;
                v = activate<kAct>(v, a, b, kAct == Act::prelu ? load(p.end.slope + channel + c, lanes) : V{});
                if (residual && !p.end.residual_first) v += r;
                store(to[i] + channel + c, v, lanes);
            }
        }
    });
}

// What is left to do with a tile's sums. Without a residual and for all but the costly activations that is done as they
// are stored; else they go into a buffer, and from there into the rows of the target.
template <int M, int N>
struct Finish {
    alignas(64) float buffer[M * N * kLanes];
    float* rows[M];
    bool direct;
    float low, high;

    explicit Finish(const Epilogue& end) {
        for (int i = 0; i < M; ++i) rows[i] = buffer + i * N * kLanes;
        const bool clamps = end.act == Act::clamp;
        direct = !end.residual && (clamps || end.act == Act::none);
        low = direct && clamps ? end.a : -__builtin_inff();
        high = direct && clamps ? end.b : __builtin_inff();
    }

    Sums take(float* const* to, int channel, int n, int width) const {
        return direct ? Sums{to, channel, n, width, low, high} : Sums{rows, 0, n, width, low, high};
    }

    void done(const Conv2d& p, float* const* to, const int32_t* cells, int channel, int n, int width) const {
        if (!direct) finish(p, buffer, N * kLanes, to, cells, n, channel, width);
    }
};

// A panel of at most N vectors of channels over the tiles of a block.
template <int M, int N, int kPanel, class F>
void multiply_tiles(const Conv2d& p, const Block& b, int merged, const int32_t* cells, int n, ptrdiff_t from,
                    const float* w, const float* bias, int channel, int width, const F& end) {
    for (int i = 0; i < n; i += M) {
        const int some = n - i < M ? n - i : M;
        const Sums sums = end.take(b.to + i, channel, some, width);
        if (b.inside[i / M]) {
            multiply_some<M, N, kPanel, true>(b.base + i, b.runs, merged, p.in_per_group, from, w, bias, sums);
        } else {
            multiply_some<M, N, kPanel, false>(b.table + (ptrdiff_t)i * p.taps, b.runs, p.taps, p.in_per_group, from, w,
                                               bias, sums);
        }
        end.done(p, b.to + i, cells + i, channel, some, width);
    }
}

// A panel of one vector of channels over the pieces of a block.
template <int kPanel, class F>
void multiply_pieces(const Conv2d& p, const Block& b, int line, const int32_t* cells, int n, ptrdiff_t from,
                     const float* w, const float* bias, int channel, int width, const F& end) {
    for (int i = 0, some = 0; i < n; i += some) {
        some = piece_length(cells + i, n - i, p.out.width);
        choose_lines(some, p.stride_x, line, [&](auto rows, auto stride, auto taps) {
            constexpr int R = decltype(rows)::value, S = decltype(stride)::value, K = decltype(taps)::value;
            const Sums sums = end.take(b.to + i, channel, some, width);
            if (find_inner_lines(p, K, R, cells[i], b.lines)) {
                multiply_lines<R, S, K, kPanel, true>(b.lines, p.in.step, p.taps / K, p.in_per_group, from, w, bias,
                                                      sums);
            } else {
                find_lines(p, K, R, cells[i], b.lines);
                multiply_lines<R, S, K, kPanel, false>(b.lines, 0, p.taps / K, p.in_per_group, from, w, bias, sums);
            }
            end.done(p, b.to + i, cells + i, channel, some, width);
        });
    }
}

template <int M, int N>
void cached_conv2d(const Conv2d& p) {
    constexpr int kPanel = N * kLanes;
    static_assert(kBlock % M == 0);
    const Block b = begin_block(p.scratch, p.taps, p.tap_y, p.tap_x);
    const int panels = (p.out_per_group + kPanel - 1) / kPanel, line = line_width(p), merged = find_runs(p, b.runs);
    const ptrdiff_t depth = p.in_per_group, panel_size = (ptrdiff_t)p.taps * depth * kPanel;
    const Finish<(M > kPiece ? M : kPiece), N> end(p.end);
    for (int first = 0; first < p.out.count; first += kBlock) {
        const int n = p.out.count - first < kBlock ? p.out.count - first : kBlock;
        const int32_t* cells = p.out.cells + first;
        const bool pieces = line && in_pieces(cells, n);
        locate<M>(p, b, cells, n, pieces && p.out_per_group <= kLanes);
        for (int at = 0; at < p.groups * panels; ++at) {
            const int group = at / panels, in_group = at % panels * kPanel, left = p.out_per_group - in_group;
            const int channel = group * p.out_per_group + in_group, width = left < kPanel ? left : kPanel;
            const float *w = p.weights + at * panel_size, *bias = p.bias + (ptrdiff_t)at * kPanel;
            if (pieces && width <= kLanes) {
                multiply_pieces<kPanel>(p, b, line, cells, n, group * depth, w, bias, channel, width, end);
            } else if (width <= kLanes) {
                multiply_tiles<M, 1, kPanel>(p, b, merged, cells, n, group * depth, w, bias, channel, width, end);
            } else {
                multiply_tiles<M, N, kPanel>(p, b, merged, cells, n, group * depth, w, bias, channel, width, end);
            }
        }
        if (p.out.gate != Gate::none) commit(p.out, b.rows, first, n);
    }
}

#endif

}  // namespace
}  // namespace flux
