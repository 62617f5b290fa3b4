// Masks: one byte a row, and the list of set rows, made when somebody asks for it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace flux {

class Mask {
  public:
    explicit Mask(int rows) : bits_(static_cast<size_t>(rows), 0) {}

    int rows() const { return static_cast<int>(bits_.size()); }
    int count() const { return count_; }
    bool any() const { return count_ > 0; }
    bool full() const { return count_ == rows(); }
    // All set rows lie in [low, high).
    int low() const { return low_; }
    int high() const { return high_; }
    const uint8_t* bits() const { return bits_.data(); }

    void clear() {
        if (high_ > low_) std::memset(bits_.data() + low_, 0, static_cast<size_t>(high_ - low_));
        set(0, 0, 0);
    }

    void fill() {
        if (full()) return;
        std::memset(bits_.data(), 1, bits_.size());
        set(0, rows(), rows());
    }

    // Hands out the bits of a cleared mask to be written within [low, high); `close` ends it.
    uint8_t* open() {
        clear();
        return bits_.data();
    }

    void close(int low, int high) {
        low = std::max(low, 0);
        high = std::min(high, rows());
        const uint8_t* b = bits_.data();
        while (low + 8 <= high && !eight(b + low)) low += 8;
        while (low < high && !b[low]) ++low;
        while (high - 8 >= low && !eight(b + high - 8)) high -= 8;
        while (high > low && !b[high - 1]) --high;
        int count = 0, i = low;
        for (; i + 8 <= high; i += 8) count += static_cast<int>(eight(b + i) * 0x0101010101010101u >> 56);
        for (; i < high; ++i) count += b[i];
        count ? set(low, high, count) : set(0, 0, 0);
    }

    void copy(const Mask& from) {
        if (full() && from.full()) return;
        uint8_t* to = open();
        if (!from.any()) return;
        std::memcpy(to + from.low_, from.bits_.data() + from.low_, static_cast<size_t>(from.high_ - from.low_));
        set(from.low_, from.high_, from.count_);
        if (!from.listed_) return;
        cells_ = from.cells_;
        listed_ = true;
    }

    // Sets what is set in the other too.
    void add(const Mask& other) {
        if (!other.any() || full()) return;
        for (int i = other.low_; i < other.high_; ++i) {
            const auto at = static_cast<size_t>(i);
            bits_[at] = static_cast<uint8_t>(bits_[at] | other.bits_[at]);
        }
        close(any() ? std::min(low_, other.low_) : other.low_, std::max(high_, other.high_));
    }

    bool equals(const Mask& other) const {
        if (count_ != other.count_ || low_ != other.low_ || high_ != other.high_) return false;
        return !std::memcmp(bits_.data() + low_, other.bits_.data() + low_, static_cast<size_t>(high_ - low_));
    }

    // The set rows, ascending.
    const std::vector<int32_t>& cells() {
        if (listed_) return cells_;
        cells_.resize(static_cast<size_t>(count_));
        int32_t* to = cells_.data();
        const uint8_t* b = bits_.data();
        int i = low_;
        for (; i + 8 <= high_; i += 8) {
            if (!eight(b + i)) continue;
            for (int j = i; j < i + 8; ++j) {
                if (b[j]) *to++ = j;
            }
        }
        for (; i < high_; ++i) {
            if (b[i]) *to++ = i;
        }
        listed_ = true;
        return cells_;
    }

  private:
    static uint64_t eight(const uint8_t* at) {
        uint64_t found;
        std::memcpy(&found, at, 8);
        return found;
    }

    void set(int low, int high, int count) {
        low_ = low;
        high_ = high;
        count_ = count;
        listed_ = false;
    }

    std::vector<uint8_t> bits_;
    std::vector<int32_t> cells_;
    int count_ = 0, low_ = 0, high_ = 0;
    bool listed_ = false;
};

}  // namespace flux
