// A gate by mean change that sees the neighbourhood of a row: what changes weakly but widely passes, a row that stands
// alone does not. Rows are computed in place; those that do not pass get back what they were.
#pragma once
#include <cmath>
#include <cstring>
#include <vector>

#include "../cpu/kernels.h"

namespace flux {

class MeanGate {
  public:
    static constexpr int kNear = 1;            // rows around one that passes, which pass with it if they were computed
    static constexpr int kAround = 2;          // rows on each side over which a wide change is looked for
    static constexpr float kWideShare = 0.4f;  // of the bound that the mean change around a row must exceed

    // Before the rows are computed.
    void keep(const Target& map, const std::vector<int32_t>& cells) {
        was_.resize(cells.size() * static_cast<size_t>(map.channels));
        float* to = was_.data();
        for (const int32_t cell : cells) {
            std::memcpy(to, map.at + cell * map.step, sizeof(float) * static_cast<size_t>(map.channels));
            to += map.channels;
        }
    }

    // After: `changed`, of all rows and clear, gets those that pass. A map of one column is tokens without neighbours.
    void settle(const Target& map, const std::vector<int32_t>& cells, int rows, float bound, uint8_t* changed) {
        if (cells.empty()) return;
        const int width = map.width, height = rows / width;
        changes_.clear(height, width);
        passed_.clear(height, width);
        const float* was = was_.data();
        for (const int32_t cell : cells) {
            changes_.of(cell) = mean_change(map.at + cell * map.step, was, map.channels);
            was += map.channels;
        }
        const int first = cells.front() / width, last = cells.back() / width;
        const auto sum = [](float a, float b) { return a + b; };
        const auto either = [](uint8_t a, uint8_t b) { return static_cast<uint8_t>(a | b); };
        const bool in_line = width == 1;
        constexpr float kCells = (2 * kAround + 1) * (2 * kAround + 1);
        if (!in_line) changes_.template fold_lines<kAround>(first, last, sum);
        for (const int32_t cell : cells) {
            const bool own = !(changes_.of(cell) <= bound);
            passed_.of(cell) =
                own || (!in_line && !(changes_.template folded<kAround>(cell, sum) <= kWideShare * bound * kCells));
        }
        if (!in_line) passed_.template fold_lines<kNear>(first, last, either);
        was = was_.data();
        for (const int32_t cell : cells) {
            changed[cell] = in_line ? passed_.of(cell) : passed_.template folded<kNear>(cell, either);
            if (!changed[cell])
                std::memcpy(map.at + cell * map.step, was, sizeof(float) * static_cast<size_t>(map.channels));
            was += map.channels;
        }
    }

  private:
    // A number a cell, with zeros around the map, and what lies within some cells of each: lines first, then columns.
    template <class T>
    class Around {
      public:
        void clear(int height, int width) {
            width_ = width;
            pitch_ = width + 2 * kAround;
            values_.assign(static_cast<size_t>(pitch_) * static_cast<size_t>(height + 2 * kAround), 0);
            lines_.resize(values_.size());
        }

        T& of(int cell) { return values_[at(cell)]; }

        // For cells in the lines first .. last of the map.
        template <int kReach, class Join>
        void fold_lines(int first, int last, const Join& join) {
            for (int line = first + kAround - kReach; line <= last + kAround + kReach; ++line) {
                const size_t start = static_cast<size_t>(line) * static_cast<size_t>(pitch_);
                const T* from = values_.data() + start + kAround - kReach;
                T* to = lines_.data() + start + kAround;
                for (int x = 0; x < width_; ++x) {
                    T found = from[x];
                    for (int i = 1; i <= 2 * kReach; ++i) found = join(found, from[x + i]);
                    to[x] = found;
                }
            }
        }

        template <int kReach, class Join>
        T folded(int cell, const Join& join) const {
            const T* from = lines_.data() + at(cell) - kReach * pitch_;
            T found = *from;
            for (int i = 1; i <= 2 * kReach; ++i) found = join(found, from[i * pitch_]);
            return found;
        }

      private:
        size_t at(int cell) const {
            return static_cast<size_t>((cell / width_ + kAround) * pitch_ + cell % width_ + kAround);
        }

        int width_ = 0, pitch_ = 0;
        std::vector<T> values_, lines_;
    };

    std::vector<float> was_;
    Around<float> changes_;
    Around<uint8_t> passed_;

    static float mean_change(const float* now, const float* was, int channels) {
        constexpr int kLanes = 8;  // sums side by side, which a compiler may keep in a vector
        float sums[kLanes] = {}, total = 0;
        int c = 0;
        for (; c + kLanes <= channels; c += kLanes) {
            for (int i = 0; i < kLanes; ++i) sums[i] += std::abs(now[c + i] - was[c + i]);
        }
        for (; c < channels; ++c) total += std::abs(now[c] - was[c]);
        for (const float sum : sums) total += sum;
        return total / static_cast<float>(channels);
    }
};

}  // namespace flux
