// How misses pass from one map to the next. In a fresh frame everything misses.
#pragma once
#include "mask.h"
#include "step.h"

namespace flux {

// How one operand's misses reach the output's rows.
struct Reader {
    enum class Kind { range, table, group, any } kind;
    Mask* in;
    int first_in, first_out, count;  // range: rows first_in .. + count become first_out ..
    std::vector<int32_t> table;      // table: output row -> input row or -1; group: input row -> key
    std::vector<int32_t> keys;       // group: output row -> key
    int key_count;
};

// out = any of what its readers bring.
struct JoinStep : PlanStep {
    Mask* out;
    std::vector<Reader> readers;
    std::vector<uint8_t> groups;

    void run(const Frame& frame) override {
        if (frame.fresh) return out->fill();
        bool some = false;
        for (const Reader& r : readers) {
            some |= r.in->any();
            if ((r.kind == Reader::Kind::any && r.in->any()) || (covers(r) && r.in->full())) return out->fill();
        }
        if (!some) return out->clear();
        uint8_t* to = out->open();
        int low = out->rows(), high = 0;
        for (const Reader& r : readers) {
            if (!r.in->any()) continue;
            const uint8_t* from = r.in->bits();
            if (r.kind == Reader::Kind::range) {
                const int begin = std::max(r.first_in, r.in->low()), end = std::min(r.first_in + r.count, r.in->high());
                const int shift = r.first_out - r.first_in;
                for (int i = begin; i < end; ++i) to[i + shift] |= from[i];
                if (begin < end) {
                    low = std::min(low, begin + shift);
                    high = std::max(high, end + shift);
                }
                continue;
            }
            low = 0;
            high = out->rows();
            if (r.kind == Reader::Kind::table) {
                for (int i = 0; i < high; ++i)
                    to[i] |= r.table[static_cast<size_t>(i)] >= 0 ? from[r.table[static_cast<size_t>(i)]] : 0;
            } else {
                groups.assign(static_cast<size_t>(r.key_count), 0);
                for (int i = r.in->low(); i < r.in->high(); ++i)
                    groups[static_cast<size_t>(r.table[static_cast<size_t>(i)])] |= from[i];
                for (int i = 0; i < high; ++i) to[i] |= groups[static_cast<size_t>(r.keys[static_cast<size_t>(i)])];
            }
        }
        out->close(low, high);
    }

    bool covers(const Reader& r) const {
        return r.kind == Reader::Kind::range && r.first_out == 0 && r.count == out->rows();
    }
};

// out[y, x] = any of in[reads_y[y, :], reads_x[x, :]], with `near` only where that is set too.
struct WindowStep : PlanStep {
    Mask *in, *out, *near = nullptr;
    int in_width, out_width, out_height;
    int taps_y, taps_x;
    std::vector<int32_t> reads_y, reads_x;
    int stride = 0, dilation = 0, start = 0;  // reads_x[x, t] = x * stride + t * dilation + start inside the map
    std::vector<uint8_t> line;
    int margin = 0;
    bool centred = false;  // every cell reads itself: what lies near is reached from what lies near

    // Finds out whether the taps along x are evenly spaced.
    void prepare() {
        const auto at = [&](int x, int t) {
            return reads_x[static_cast<size_t>(x) * static_cast<size_t>(taps_x) + static_cast<size_t>(t)];
        };
        line.resize(static_cast<size_t>(in_width));
        centred = in->rows() == out->rows() && in_width == out_width && reads_self(reads_y, out_height, taps_y) &&
                  reads_self(reads_x, out_width, taps_x);
        bool known = false;
        for (int x = 0; x < out_width; ++x) {
            for (int t = 0; t < taps_x; ++t) {
                if (at(x, t) < 0) continue;
                if (!dilation && t + 1 < taps_x && at(x, t + 1) >= 0) dilation = at(x, t + 1) - at(x, t);
                if (!stride && x + 1 < out_width && at(x + 1, t) >= 0) stride = at(x + 1, t) - at(x, t);
            }
        }
        for (int x = 0; x < out_width && !known; ++x) {
            for (int t = 0; t < taps_x && !known; ++t) {
                if (at(x, t) < 0) continue;
                start = at(x, t) - x * stride - t * dilation;
                known = true;
            }
        }
        bool even = stride > 0 && dilation >= 0;
        for (int x = 0; x < out_width && even; ++x) {
            for (int t = 0; t < taps_x && even; ++t) {
                const int read = x * stride + t * dilation + start;
                even = at(x, t) == (read >= 0 && read < in_width ? read : -1);
            }
        }
        if (!even) stride = 0;
        const int last = (out_width - 1) * stride + (taps_x - 1) * dilation + start;
        margin = stride ? std::max(0, -start) : 0;
        line.resize(static_cast<size_t>(margin + std::max(in_width, stride ? last + 1 : 0)));
    }

    void run(const Frame& frame) override {
        if (frame.fresh || (in->full() && (!near || near->full()))) return out->fill();
        if (!in->any() || (near && !near->any())) return out->clear();
        if (near && centred && in->equals(*near)) {
            near->cells();  // made once for all who share it
            return out->copy(*near);
        }
        uint8_t* to = out->open();
        const int begin = in->low() / in_width, end = (in->high() + in_width - 1) / in_width;
        extents.resize(static_cast<size_t>(end - begin));
        for (int y = begin; y < end; ++y) extents[static_cast<size_t>(y - begin)] = extent(y);
        int low = out->rows(), high = 0;
        for (int y = 0; y < out_height; ++y) {
            const int32_t* reads = reads_y.data() + static_cast<ptrdiff_t>(y) * taps_y;
            Extent all = {in_width, 0};
            for (int t = 0; t < taps_y; ++t) {
                if (reads[t] < begin || reads[t] >= end) continue;
                const Extent& e = extents[static_cast<size_t>(reads[t] - begin)];
                all = {std::min(all.low, e.low), std::max(all.high, e.high)};
            }
            if (all.low >= all.high) continue;
            uint8_t* l = line.data() + margin;
            std::memset(l + all.low, 0, static_cast<size_t>(all.high - all.low));
            for (int t = 0; t < taps_y; ++t) {
                if (reads[t] < begin || reads[t] >= end) continue;
                const uint8_t* from = in->bits() + static_cast<ptrdiff_t>(reads[t]) * in_width;
                for (int x = all.low; x < all.high; ++x) l[x] |= from[x];
            }
            const Extent wide = reached(all);
            uint8_t* line_out = to + static_cast<ptrdiff_t>(y) * out_width;
            along_x(line_out, wide);
            std::memset(l + all.low, 0, static_cast<size_t>(all.high - all.low));
            if (near) {
                const uint8_t* allowed = near->bits() + static_cast<ptrdiff_t>(y) * out_width;
                for (int x = wide.low; x < wide.high; ++x) line_out[x] &= allowed[x];
            }
            low = std::min(low, y * out_width + wide.low);
            high = y * out_width + wide.high;
        }
        out->close(low, high);
    }

  private:
    struct Extent {
        int low, high;
    };
    std::vector<Extent> extents;  // of each line read: where it is set

    Extent extent(int y) const {
        const uint8_t* from = in->bits() + static_cast<ptrdiff_t>(y) * in_width;
        int low = 0, high = in_width;
        uint64_t eight;
        for (; low + 8 <= high; low += 8) {
            std::memcpy(&eight, from + low, 8);
            if (eight) break;
        }
        while (low < high && !from[low]) ++low;
        for (; high - 8 >= low; high -= 8) {
            std::memcpy(&eight, from + high - 8, 8);
            if (eight) break;
        }
        while (high > low && !from[high - 1]) --high;
        return low < high ? Extent{low, high} : Extent{in_width, 0};
    }

    // The outputs that read any of these cells.
    Extent reached(const Extent& in_line) const {
        if (!stride) return {0, out_width};
        const int far = start + (taps_x - 1) * dilation;
        const int low = in_line.low - far, high = in_line.high - 1 - start;
        return {std::max(0, low <= 0 ? 0 : (low + stride - 1) / stride),
                std::min(out_width, high < 0 ? 0 : high / stride + 1)};
    }

    static bool reads_self(const std::vector<int32_t>& reads, int outputs, int taps) {
        for (int i = 0; i < outputs; ++i) {
            const auto begin = reads.begin() + static_cast<ptrdiff_t>(i) * taps;
            if (std::find(begin, begin + taps, i) == begin + taps) return false;
        }
        return true;
    }

    // `line` holds zeros outside the cells that were read.
    void along_x(uint8_t* to, const Extent& range) const {
        const uint8_t* l = line.data() + margin;
        if (!stride) {
            for (int x = range.low; x < range.high; ++x) {
                const int32_t* reads = reads_x.data() + static_cast<ptrdiff_t>(x) * taps_x;
                for (int t = 0; t < taps_x; ++t) to[x] |= reads[t] >= 0 ? l[reads[t]] : 0;
            }
            return;
        }
        if (stride == 2 && taps_x == 2 && dilation == 1) {  // cells two by two
            const uint8_t* from = l + start;
            for (int x = range.low; x < range.high; ++x) {
                uint16_t both;
                std::memcpy(&both, from + 2 * static_cast<ptrdiff_t>(x), 2);
                to[x] |= both != 0;
            }
            return;
        }
        for (int t = 0; t < taps_x; ++t) {
            const uint8_t* from = l + start + t * dilation;
            if (stride == 1) {
                for (int x = range.low; x < range.high; ++x) to[x] |= from[x];
            } else {
                for (int x = range.low; x < range.high; ++x) to[x] |= from[static_cast<ptrdiff_t>(x) * stride];
            }
        }
    }
};

// out = in & near, everything in a fresh frame.
struct LimitStep : PlanStep {
    Mask *in, *near, *out;

    void run(const Frame& frame) override {
        if (frame.fresh) return out->fill();
        if (near->full()) return out->copy(*in);
        const int low = std::max(in->low(), near->low()), high = std::min(in->high(), near->high());
        if (low >= high) return out->clear();
        uint8_t* to = out->open();
        const uint8_t *a = in->bits(), *b = near->bits();
        for (int i = low; i < high; ++i) to[i] = a[i] & b[i];
        out->close(low, high);
    }
};

// out = the cells within `radius` of a set one (a square); all where the radius is negative. Or the cells it is given.
struct ReachStep : PlanStep {
    Mask *in, *out;
    int width;
    const uint8_t* given = nullptr;
    std::vector<uint8_t> pad, sum;

    void run(const Frame& frame) override {
        if (frame.fresh) return out->fill();
        if (given) return take_given();
        if (frame.radius < 0) return out->fill();
        if (!in->any() || frame.radius == 0) return out->copy(*in);
        const int height = in->rows() / width, r = std::min(frame.radius, std::max(height, width));
        const int top = std::max(0, in->low() / width - r), bottom = std::min(height, (in->high() - 1) / width + 1 + r);
        uint8_t* to = out->open();
        // Along x, then along y: runs of 2r + 1 by doubling.
        const int length = width + 2 * r;
        for (int y = in->low() / width; y < (in->high() - 1) / width + 1; ++y) {
            pad.assign(static_cast<size_t>(length), 0);
            std::memcpy(pad.data() + r, in->bits() + static_cast<ptrdiff_t>(y) * width, static_cast<size_t>(width));
            for (int have = 1; have < 2 * r + 1;) {
                const int by = std::min(have, 2 * r + 1 - have);
                for (int x = 0; x + by < length; ++x) pad[static_cast<size_t>(x)] |= pad[static_cast<size_t>(x + by)];
                have += by;
            }
            for (int other = std::max(0, y - r); other <= std::min(height - 1, y + r); ++other) {
                uint8_t* line = to + static_cast<ptrdiff_t>(other) * width;
                for (int x = 0; x < width; ++x) line[x] |= pad[static_cast<size_t>(x)];
            }
        }
        out->close(top * width, bottom * width);
    }

  private:
    // Whatever misses may at least change itself.
    void take_given() {
        uint8_t* to = out->open();
        const uint8_t* from = in->bits();
        const int n = out->rows();
        int i = 0;
        for (uint64_t a, b; i + 8 <= n; i += 8) {
            std::memcpy(&a, given + i, 8);
            std::memcpy(&b, from + i, 8);
            if (!(a |= b)) continue;
            std::memcpy(to + i, &a, 8);
        }
        for (; i < n; ++i) to[i] = given[i] | from[i];
        out->close(0, n);
    }
};

}  // namespace flux
