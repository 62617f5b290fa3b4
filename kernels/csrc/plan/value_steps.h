// Steps that compute or move values. Each computes the rows of its mask in place in the output map, which is the cache.
#pragma once
#include <cmath>
#include <limits>
#include <vector>

#include "../cpu/kernels.h"
#include "mask.h"
#include "mean_gate.h"
#include "roll.h"
#include "step.h"

namespace flux {

// The standard deviation of a map.
inline float deviation(const Target& map, int rows) {
    double sum = 0, squares = 0;
    for (int r = 0; r < rows; ++r) {
        const float* row = map.at + r * map.step;
        for (int c = 0; c < map.channels; ++c) {
            sum += row[c];
            squares += static_cast<double>(row[c]) * row[c];
        }
    }
    const double n = static_cast<double>(rows) * map.channels, mean = sum / n;
    return static_cast<float>(std::sqrt(std::max(0.0, squares / n - mean * mean)));
}

// Any kernel whose arguments hold a Target `out` and `scratch`.
template <class P>
struct KernelStep : PlanStep {
    P p;
    void (*kernel)(const P&);
    Mask* mask;
    Mask* changed = nullptr;  // the rows that came out other than they were; null: nobody asks
    double row_cost = 1e4;    // floating-point operations a row, to judge whether threads are worth waking
    int phase_y = 0, phase_x = 0, step_y = 1, step_x = 1;  // a transposed convolution works on every step-th row only
    std::vector<int32_t> own;
    std::vector<uint8_t> flags;
    MeanGate mean_gate;
    float bound = 0;

    void run(const Frame& frame) override {
        const std::vector<int32_t>& cells = rows(frame);
        const int n = static_cast<int>(cells.size());
        done = n;
        if (!n) {
            if (changed) changed->clear();
            return;
        }
        // Where spreading is bounded anyway, a gate that only stops equal rows costs more than it saves.
        const bool whole = frame.rolled && placed;
        const bool gated = changed && !frame.fresh && !whole && (frame.gate > 0 || frame.radius < 0);
        const bool by_mean = gated && frame.by_mean && frame.gate > 0;
        if (by_mean) mean_gate.keep(p.out, cells);
        if (gated) flags.resize(static_cast<size_t>(n));
        const int parts = n * row_cost < 1e5 ? 1 : std::min(n, frame.pool->size());
        frame.pool->run(parts, [&](int t) {
            P q = p;
            const int begin = static_cast<int>(static_cast<int64_t>(n) * t / parts);
            q.out.cells = cells.data() + begin;
            q.out.count = static_cast<int>(static_cast<int64_t>(n) * (t + 1) / parts) - begin;
            q.scratch = frame.scratch[t];
            if (gated && !by_mean) {
                q.out.gate = Gate::largest;
                q.out.bound = frame.gate * bound;
                q.out.changed = flags.data() + begin;
            }
            kernel(q);
        });
        if (!changed) return;
        if (frame.fresh && frame.gate > 0) bound = deviation(p.out, mask->rows());
        if (whole) {
            changed->fill();
        } else if (!gated) {
            changed->copy(*mask);
        } else {
            uint8_t* to = changed->open();
            if (by_mean) {
                mean_gate.settle(p.out, cells, mask->rows(), frame.gate * bound, to);
            } else {
                for (int i = 0; i < n; ++i) to[cells[static_cast<size_t>(i)]] = flags[static_cast<size_t>(i)];
            }
            changed->close(cells.front(), cells.back() + 1);
        }
    }

  private:
    const std::vector<int32_t>& rows(const Frame& frame) {
        if (frame.rolled && placed) {
            own.clear();
            for (int32_t cell = 0; cell < mask->rows(); ++cell) {
                if (cell / p.out.width % step_y == phase_y && cell % p.out.width % step_x == phase_x)
                    own.push_back(cell);
            }
            return own;
        }
        if (step_y == 1 && step_x == 1) return mask->cells();
        own.clear();
        for (const int32_t cell : mask->cells()) {
            if (cell / p.out.width % step_y == phase_y && cell % p.out.width % step_x == phase_x) own.push_back(cell);
        }
        return own;
    }
};

// Row r takes `pieces` runs of `length` floats, run j from in[table[r][j]] (relative: from its own row, table[0][j]).
// A negative entry leaves `fill`.
struct Gather {
    Target out;
    const float* in;
    ptrdiff_t in_step;
    const int64_t* table;
    int pieces, length;
    bool relative;
    float fill;
    void* scratch;
};

inline void gather_rows(const Gather& p) {
    for (int i = 0; i < p.out.count; ++i) {
        const ptrdiff_t cell = p.out.cells[i];
        float* row = p.out.at + cell * p.out.step;
        const int64_t* from = p.table + (p.relative ? 0 : cell * p.pieces);
        const float* base = p.in + (p.relative ? cell * p.in_step : 0);
        for (int j = 0; j < p.pieces; ++j, row += p.length) {
            if (from[j] < 0) {
                std::fill(row, row + p.length, p.fill);
            } else {
                std::memcpy(row, base + from[j], sizeof(float) * static_cast<size_t>(p.length));
            }
        }
    }
}

// The mean of all rows of a map. Sums of kSpan rows are kept, so that only spans with a miss are added again.
struct MeanStep : PlanStep {
    static constexpr int kSpan = 64;
    Map in;
    int channels;
    float* out;
    Mask* mask;  // of the map
    std::vector<float> sums;

    void run(const Frame& frame) override {
        const bool whole = frame.fresh || frame.rolled;
        done = whole || mask->any();
        if (!done) return;
        const int rows = in.height * in.width, spans = (rows + kSpan - 1) / kSpan;
        sums.resize(static_cast<size_t>(spans) * static_cast<size_t>(channels));
        const uint8_t* bits = mask->bits();
        for (int s = 0; s < spans; ++s) {
            const int begin = s * kSpan, end = std::min(rows, begin + kSpan);
            if (!whole && !std::memchr(bits + begin, 1, static_cast<size_t>(end - begin))) continue;
            float* sum = sums.data() + static_cast<ptrdiff_t>(s) * channels;
            std::fill(sum, sum + channels, 0.f);
            for (int r = begin; r < end; ++r) {
                const float* row = in.at + r * in.step;
                for (int c = 0; c < channels; ++c) sum[c] += row[c];
            }
        }
        std::vector<double> total(static_cast<size_t>(channels), 0.0);
        for (int s = 0; s < spans; ++s) {
            for (int c = 0; c < channels; ++c)
                total[static_cast<size_t>(c)] +=
                    sums[static_cast<size_t>(s) * static_cast<size_t>(channels) + static_cast<size_t>(c)];
        }
        for (int c = 0; c < channels; ++c) out[c] = static_cast<float>(total[static_cast<size_t>(c)] / rows);
    }
};

// A value without a place, kept until its relative change (norm over norm) exceeds the gate; 0 keeps only equals.
struct HoldStep : PlanStep {
    const float* in;
    float* out;
    int channels;
    Mask *mask, *changed;

    void run(const Frame& frame) override {
        if (!frame.fresh && !frame.rolled && !mask->any()) return changed->clear();
        double change = 0, norm = 0;
        bool finite = true;
        for (int c = 0; c < channels; ++c) {
            change += (static_cast<double>(in[c]) - out[c]) * (static_cast<double>(in[c]) - out[c]);
            norm += static_cast<double>(out[c]) * out[c];
            finite &= std::isfinite(in[c]) && std::isfinite(out[c]);
        }
        done = frame.fresh || !finite || std::sqrt(change) > frame.gate * std::sqrt(norm);
        if (!done) return changed->clear();
        std::memcpy(out, in, sizeof(float) * static_cast<size_t>(channels));
        changed->fill();
    }
};

// Keeps the reference image: pixels that differ from it by more than the threshold, or that the caller names, are new.
template <class T>
struct InputStep : PlanStep {
    static constexpr bool kBytes = sizeof(T) == 1;
    float* out;
    int rows, width, channels;
    bool planar;  // the frame comes channel by channel
    Mask* mask;
    const T* data = nullptr;
    const uint8_t* given = nullptr;
    T* held = nullptr;  // bytes as they came: comparing them is four times cheaper than comparing floats

    void run(const Frame& frame) override {
        if (frame.fresh) {
            mask->fill();
            in_parts(frame, [&](int first, int last) {
                keep(first, last - first);
                return Span{first, last};
            });
        } else {
            uint8_t* bits = mask->open();
            const Span found = in_parts(frame, [&](int first, int last) {
                return given ? take_given(first, last, bits) : compare(first, last, frame.threshold, bits);
            });
            mask->close(found.begin, found.end);
        }
        done = mask->count();
    }

    // The bytes that came move as the map `out` (its rows lines of `width` pixels) does.
    void roll(int dy, int dx) {
        if (held && planar) {
            for (int c = 0; c < channels; ++c)
                roll_lines(held + static_cast<ptrdiff_t>(c) * rows, rows / width, width, 1, dy, dx);
        } else if (held) {
            roll_lines(held, rows / width, width, channels, dy, dx);
        }
    }

    // No NaN and no infinity in what would be read.
    bool finite(const T* frame, const uint8_t* named) const {
        if (!named) return is_finite(frame, 0, rows);
        for (int r = 0; r < rows;) {
            const void* found = std::memchr(named + r, 1, static_cast<size_t>(rows - r));
            if (!found) break;
            const int begin = static_cast<int>(static_cast<const uint8_t*>(found) - named);
            const void* end = std::memchr(named + begin, 0, static_cast<size_t>(rows - begin));
            r = end ? static_cast<int>(static_cast<const uint8_t*>(end) - named) : rows;
            if (!is_finite(frame, begin, r - begin)) return false;
        }
        return true;
    }

  private:
    static constexpr int kRun = 512;          // pixels looked at together; most runs are equal
    static constexpr int kLeast = 32 * kRun;  // pixels worth a thread

    struct Span {
        int begin, end;
    };
    std::vector<Span> spans;

    // Every thread takes its own lines of the frame and says where what it found begins and ends.
    template <class F>
    Span in_parts(const Frame& frame, const F& take) {
        const int parts = std::max(1, std::min(frame.pool->size(), rows / kLeast));
        const int each = ((rows + parts - 1) / parts + kRun - 1) / kRun * kRun;
        spans.resize(static_cast<size_t>(parts));
        frame.pool->run(parts, [&](int t) {
            spans[static_cast<size_t>(t)] = take(std::min(rows, t * each), std::min(rows, (t + 1) * each));
        });
        Span all = {rows, 0};
        for (const Span& one : spans) all = {std::min(all.begin, one.begin), std::max(all.end, one.end)};
        return all;
    }

    bool is_finite(const T* frame, int first, int n) const {
        int odd = 0;
        for (int plane = 0; plane < (planar ? channels : 1); ++plane) {
            const T* from = frame + (planar ? first + static_cast<ptrdiff_t>(plane) * rows
                                            : static_cast<ptrdiff_t>(first) * channels);
            const ptrdiff_t count = planar ? n : static_cast<ptrdiff_t>(n) * channels;
            for (ptrdiff_t i = 0; i < count; ++i) odd |= !(from[i] - from[i] == 0);
        }
        return !odd;
    }

    static bool differs(T a, float b, float threshold) {
        const float change = static_cast<float>(a) - b;
        return !(change <= threshold && -change <= threshold);
    }

    // The pixels first .. + n of the frame become those of the reference.
    void keep(int first, int n) {
        for (int plane = 0; kBytes && plane < (planar ? channels : 1); ++plane) {
            const ptrdiff_t at =
                planar ? first + static_cast<ptrdiff_t>(plane) * rows : static_cast<ptrdiff_t>(first) * channels;
            std::memcpy(held + at, data + at, static_cast<size_t>(n) * static_cast<size_t>(planar ? 1 : channels));
        }
        float* to = out + static_cast<ptrdiff_t>(first) * channels;
        if (!planar) {
            const T* from = data + static_cast<ptrdiff_t>(first) * channels;
            for (ptrdiff_t i = 0; i < static_cast<ptrdiff_t>(n) * channels; ++i) to[i] = static_cast<float>(from[i]);
            return;
        }
        const T* from = data + first;
        if (channels == 3) {  // a picture
            const T *red = from, *green = from + rows, *blue = from + 2 * static_cast<ptrdiff_t>(rows);
            for (ptrdiff_t i = 0; i < n; ++i) {
                to[3 * i] = static_cast<float>(red[i]);
                to[3 * i + 1] = static_cast<float>(green[i]);
                to[3 * i + 2] = static_cast<float>(blue[i]);
            }
            return;
        }
        for (int c = 0; c < channels; ++c, from += rows) {
            for (ptrdiff_t i = 0; i < n; ++i) to[i * channels + c] = static_cast<float>(from[i]);
        }
    }

    // Of the pixels first .. last those that the caller named; where they begin and end.
    Span take_given(int first, int last, uint8_t* bits) {
        Span found = {rows, 0};
        for (int r = first; r < last;) {
            const void* next = std::memchr(given + r, 1, static_cast<size_t>(last - r));
            if (!next) break;
            const int begin = static_cast<int>(static_cast<const uint8_t*>(next) - given);
            for (r = begin; r < last && given[r] == 1; ++r) bits[r] = 1;
            keep(begin, r - begin);
            found = {std::min(found.begin, begin), r};
        }
        return found;
    }

    // The same of those that differ.
    Span compare(int from, int last, float threshold, uint8_t* bits) {
        Span found = {rows, 0};
        for (int first = from; first < last; first += kRun) {
            const int n = std::min(kRun, last - first);
            if (!any_differs(first, n, threshold)) continue;
            found = {std::min(found.begin, first), first + n};
            const ptrdiff_t pixel = planar ? 1 : channels, channel = planar ? rows : 1;
            for (int r = first; r < first + n;) {
                const int begin = r;
                for (; r < first + n; ++r) {
                    for (int c = 0; c < channels && !bits[r]; ++c) {
                        bits[r] = differs(data[r * pixel + c * channel], out[static_cast<ptrdiff_t>(r) * channels + c],
                                          threshold);
                    }
                    if (!bits[r]) break;
                }
                if (r > begin) keep(begin, r - begin);
                ++r;
            }
        }
        return found;
    }

    bool any_differs(int first, int n, float threshold) const {
        int any = 0;
        for (int plane = 0; kBytes && plane < (planar ? channels : 1); ++plane) {
            const ptrdiff_t at =
                planar ? first + static_cast<ptrdiff_t>(plane) * rows : static_cast<ptrdiff_t>(first) * channels;
            any |=
                std::memcmp(held + at, data + at, static_cast<size_t>(n) * static_cast<size_t>(planar ? 1 : channels));
        }
        if (kBytes && !any) return false;
        any = 0;
        const float* b = out + static_cast<ptrdiff_t>(first) * channels;
        if (planar) {
            for (int c = 0; c < channels; ++c) {
                const T* a = data + static_cast<ptrdiff_t>(c) * rows + first;
                for (ptrdiff_t i = 0; i < n; ++i) any |= differs(a[i], b[i * channels + c], threshold);
            }
            return any;
        }
        const T* a = data + static_cast<ptrdiff_t>(first) * channels;
        for (ptrdiff_t i = 0; i < static_cast<ptrdiff_t>(n) * channels; ++i) any |= differs(a[i], b[i], threshold);
        return any;
    }
};

// Writes the rows that missed into a tensor of the caller's own layout: element (row, channel) lies at row_at +
// channel_at. Two tensors may take turns: what the other is `behind` by is written too.
struct OutputStep : PlanStep {
    Map in;
    int channels;
    Mask* mask;
    std::vector<int64_t> row_at, channel_at;
    Mask since;  // the rows written since the other tensor was
    float* out = nullptr;
    bool turned = false, behind = false;

    explicit OutputStep(int rows) : since(rows) {}

    void turn(float* to, bool is_behind) {
        out = to;
        turned = true;
        behind = is_behind;
    }

    void run(const Frame& frame) override {
        const bool whole = frame.fresh || frame.rolled || mask->full();
        if (turned && !behind) since.clear();
        if (whole) {
            since.fill();
        } else {
            since.add(*mask);
        }
        Mask& due = behind ? since : *mask;
        if (whole || due.full()) {
            done = in.height * in.width;
            in_parts(frame, static_cast<int>(done), [&](int first, int last) { write_all(first, last); });
        } else {
            const std::vector<int32_t>& cells = due.cells();
            done = static_cast<double>(cells.size());
            in_parts(frame, static_cast<int>(cells.size()), [&](int first, int last) {
                for (int i = first; i < last; ++i) {
                    const int32_t r = cells[static_cast<size_t>(i)];
                    for (int c = 0; c < channels; ++c)
                        out[row_at[static_cast<size_t>(r)] + channel_at[static_cast<size_t>(c)]] =
                            in.at[r * in.step + c];
                }
            });
        }
        if (behind && !whole) since.copy(*mask);
        turned = behind = false;
    }

  private:
    static constexpr int kLeast = 1 << 14;  // values worth a thread

    template <class F>
    void in_parts(const Frame& frame, int count, const F& write) {
        const int64_t worth = static_cast<int64_t>(count) * channels / kLeast;
        const int parts = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(frame.pool->size(), worth)));
        frame.pool->run(parts, [&](int t) {
            write(static_cast<int>(static_cast<int64_t>(count) * t / parts),
                  static_cast<int>(static_cast<int64_t>(count) * (t + 1) / parts));
        });
    }

    void write_all(int begin, int rows) {
        constexpr int kSpan = 32;  // rows and channels at a time, so that what is read and written stays in the cache
        for (int first = begin; first < rows; first += kSpan) {
            for (int c0 = 0; c0 < channels; c0 += kSpan) {
                for (int c = c0; c < std::min(channels, c0 + kSpan); ++c) {
                    for (int r = first; r < std::min(rows, first + kSpan); ++r) {
                        out[row_at[static_cast<size_t>(r)] + channel_at[static_cast<size_t>(c)]] =
                            in.at[r * in.step + c];
                    }
                }
            }
        }
    }
};

}  // namespace flux
