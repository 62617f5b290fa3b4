// Convolutions whose taps are lines of K neighbours, for rows that are neighbours too, one vector of channels at once.
//
// A piece is rows side by side. An input that the piece reads is loaded once for all of its rows, K of them at stride 1,
// where a tile loads it once for each: that pays where loads are the bound and not multiplications, which is so with one
// vector of output channels and with depthwise convolutions. Cells outside the map are pointers to zeros.
#pragma once
#include "target.h"

namespace flux {
namespace {

// Most rows of a piece: enough sums to keep the units busy, few enough to leave registers for a line of weights. Quarters
// of it are done as well.
constexpr int kPiece = FLUX_LANES == 16 ? 16 : 10;

constexpr int line_cells(int rows, int stride, int width) { return (rows - 1) * stride + width; }

static_assert(line_cells(kPiece, 2, 3) <= 3 * kLineCells && line_cells(kPiece, 2, 5) <= 5 * kLineCells);

// The width of the lines that the taps are in: 3 or 5, else 0.
inline int line_width(const Conv2d& p) {
    if (p.up_y != 1 || p.up_x != 1 || p.stride_x > 2) return 0;
    for (int width = 3; width <= 5; width += 2) {
        bool holds = p.taps % width == 0;
        for (int t = 0; holds && t < p.taps; ++t) {
            holds = p.tap_x[t] == p.tap_x[0] + t % width && p.tap_y[t] == p.tap_y[t - t % width];
        }
        if (holds) return width;
    }
    return 0;
}

// How many rows follow each other in one line from cells[0] on, at most kPiece.
__attribute__((noinline)) inline int piece_length(const int32_t* cells, int n, int width) {
    const int left = width - cells[0] % width, most = left < kPiece ? left : kPiece;
    n = n < most ? n : most;
    int apart = 0;
    for (int i = 0; i < n; ++i) apart |= cells[i] ^ (cells[0] + i);
    if (!apart) return n;
    int i = 1;
    while (i < n && cells[i] == cells[0] + i) ++i;
    return i;
}

// Rows in pieces of at least 7 on average: with shorter ones tiles are faster.
inline bool in_pieces(const int32_t* cells, int n) {
    int breaks = 0;
    for (int i = 1; i < n; ++i) breaks += cells[i] != cells[i - 1] + 1;
    return (breaks + 1) * 7 <= n;
}

// table[line][cell]: the inputs of `rows` rows from `cell` on.
__attribute__((noinline)) inline void find_lines(const Conv2d& p, int width, int rows, int32_t cell,
                                                 const float** table) {
    const int y = cell / p.out.width * p.stride_y, x = cell % p.out.width * p.stride_x + p.tap_x[0];
    const int cells = line_cells(rows, p.stride_x, width), left = p.in.width - x;
    // The first cell inside the map, and the first beyond.
    const int begin = x < 0 ? (-x < cells ? -x : cells) : 0, end = left < 0 ? 0 : left < cells ? left : cells;
    const ptrdiff_t step = p.in.step;
    const float* zero = p.zero;
    for (int t = 0; t < p.taps; t += width, table += cells) {
        const int iy = y + p.tap_y[t];
        const bool hit = iy >= 0 && iy < p.in.height;
        const float* at = p.in.at + (hit ? (ptrdiff_t)iy * p.in.width * step : 0);
        const int from = hit ? begin : cells, to = hit ? end : 0;
        for (int j = from; j < to; ++j) table[j] = at + (x + j) * step;
        for (int j = 0; j < (from < to ? from : cells); ++j) table[j] = zero;
        for (int j = from < to ? to : cells; j < cells; ++j) table[j] = zero;
    }
}

// Whether `rows` rows from `cell` on read no cell outside the map; then table[line] is the first cell of the line.
inline bool find_inner_lines(const Conv2d& p, int width, int rows, int32_t cell, const float** table) {
    const int y = cell / p.out.width * p.stride_y, x = cell % p.out.width * p.stride_x + p.tap_x[0];
    if (x < 0 || x + line_cells(rows, p.stride_x, width) > p.in.width) return false;
    for (int t = 0; t < p.taps; t += width) {
        const int iy = y + p.tap_y[t];
        if (iy < 0 || iy >= p.in.height) return false;
        *table++ = p.in.at + ((ptrdiff_t)iy * p.in.width + x) * p.in.step;
    }
    return true;
}

// The cells of a line one after the other: all that `table` lists or, if kInside, from table[0] on, `step` apart.
template <bool kInside>
struct Line {
    const float* const* table;
    ptrdiff_t step, from;
    const float* four;

    FLUX_INLINE Line(const float* const* table, ptrdiff_t step, ptrdiff_t from)
        : table(table), step(step), from(from), four(table[0] + from) {}

    FLUX_INLINE const float* next(int j) {
        if (!kInside) return table[j] + from;
        const float* at = four + j % 4 * step;
        if (j % 4 == 3) {
            four += 4 * step;
            __asm__("" : "+r"(four));  // or the compiler keeps an offset for each cell, on the stack
        }
        return at;
    }
};

// Adds what cell j of a line gives to each of R rows.
template <int R, int S, int K>
FLUX_INLINE void add_cell(V* acc, int j, V a, const V* b) {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
        if (j >= k && (j - k) % S == 0 && (j - k) / S < R) acc[(j - k) / S] += a * b[k];
    }
}

template <int R>
FLUX_INLINE void store_piece(const Sums& sums, const V* acc) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
        if (i >= sums.rows) break;
        store_sums<1>(sums, i, acc + i);
    }
}

// One vector of output channels of R rows; weights [line][tap of line][depth][pitch].
template <int R, int S, int K, int kPitch, bool kInside>
__attribute__((noinline)) void multiply_lines(const float* const* table, ptrdiff_t step, int lines, ptrdiff_t depth,
                                              ptrdiff_t from, const float* w, const float* bias, const Sums& sums) {
    constexpr int kCells = line_cells(R, S, K);
    V acc[R];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) acc[i] = load(bias);
    for (int line = 0; line < lines; ++line, table += kInside ? 1 : kCells, w += K * depth * kPitch) {
        for (ptrdiff_t c = 0; c < depth; ++c) {
            V b[K];
#pragma GCC unroll 8
            for (int k = 0; k < K; ++k) b[k] = load(w + (k * depth + c) * kPitch);
            Line<kInside> cells(table, step, from + c);
#pragma GCC unroll 64
            for (int j = 0; j < kCells; ++j) add_cell<R, S, K>(acc, j, splat(*cells.next(j)), b);
        }
    }
    store_piece<R>(sums, acc);
}

// One vector of channels of R rows; weights [line][tap of line][pitch]. If not kFull it has only the channels of `sums`.
template <int R, int S, int K, bool kFull>
__attribute__((noinline)) void multiply_line_channels(const float* const* table, int lines, int channel, const float* w,
                                                      ptrdiff_t pitch, const float* bias, const Sums& sums) {
    constexpr int kCells = line_cells(R, S, K);
    V acc[R];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) acc[i] = load(bias + channel);
    w += channel;
    for (int line = 0; line < lines; ++line, table += kCells, w += K * pitch) {
        V b[K];
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) b[k] = load(w + k * pitch);
#pragma GCC unroll 64
        for (int j = 0; j < kCells; ++j) {
            const float* in = table[j] + channel;
            add_cell<R, S, K>(acc, j, kFull ? load(in) : load(in, sums.width), b);
        }
    }
    store_piece<R>(sums, acc);
}

// Calls f with rows of a piece (at least n), stride and line width as constants.
template <int n>
struct Count {
    static constexpr int value = n;
};

template <class F>
FLUX_INLINE void choose_lines(int n, int stride, int width, F&& f) {
    const auto with_rows = [&](auto rows) {
        if (width == 3) {
            stride == 1 ? f(rows, Count<1>{}, Count<3>{}) : f(rows, Count<2>{}, Count<3>{});
        } else {
            stride == 1 ? f(rows, Count<1>{}, Count<5>{}) : f(rows, Count<2>{}, Count<5>{});
        }
    };
    if (n > kPiece * 3 / 4) return with_rows(Count<kPiece>{});
    if (n > kPiece / 2) return with_rows(Count<kPiece * 3 / 4>{});
    if (n > kPiece / 4) return with_rows(Count<kPiece / 2>{});
    with_rows(Count<kPiece / 4>{});
}

}  // namespace
}  // namespace flux
