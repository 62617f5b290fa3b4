// A vector per block: what neighbours and the last frame found is tried first, then steps downhill from the best.
#pragma once
#include "difference.h"

namespace flux {

struct Field {
    std::vector<Vector> vectors;
    std::vector<uint32_t> sums;
};

struct SearchSettings {
    float matched;  // levels of mean difference below which a block matches
    bool refine;    // or only candidates
    int reach;      // of vectors, in pixels
};

class BlockSearch {
  public:
    BlockSearch(const Blocks& blocks, const std::vector<uint32_t>& still, const SearchSettings& settings)
        : blocks_(blocks), still_(still), settings_(settings) {}

    // stay: the vector that blocks keep unless another one is better by a margin. guesses: vectors worth a try in every
    // block; hints: one a block, from elsewhere.
    Field operator()(Vector stay, const std::vector<Vector>& guesses, const std::vector<const Vector*>& hints) {
        const int n = blocks_.count(), columns = blocks_.columns();
        field_.vectors.assign(static_cast<size_t>(n), stay);
        field_.sums.assign(static_cast<size_t>(n), 0);
        stay_sums_.resize(static_cast<size_t>(n));
        for (int i = 0; i < n; ++i) {
            start(i, stay);
            if (best_.sum <= good_) continue;
            consider(i, {});
            for (const Vector& v : guesses) consider(i, v);
            for (const Vector* hint : hints) consider(i, hint[i]);
            const int x = i % columns;
            if (x) consider(i, field_.vectors[static_cast<size_t>(i - 1)]);
            if (i >= columns) consider(i, field_.vectors[static_cast<size_t>(i - columns)]);
            if (i >= columns && x + 1 < columns) consider(i, field_.vectors[static_cast<size_t>(i - columns + 1)]);
            if (settings_.refine && best_.sum > good_) descend(i);
            keep(i, stay);
        }
        for (int i = n; i-- > 0;) {  // what was found further on, for blocks that still match nothing
            resume(i);
            if (matches(best_.sum)) continue;
            const Vector before = best_.at;
            const int x = i % columns;
            if (x + 1 < columns) consider(i, field_.vectors[static_cast<size_t>(i + 1)]);
            if (i + columns < n) consider(i, field_.vectors[static_cast<size_t>(i + columns)]);
            if (i + columns < n && x) consider(i, field_.vectors[static_cast<size_t>(i + columns - 1)]);
            if (best_.at == before) continue;
            if (settings_.refine) descend(i);
            keep(i, stay);
        }
        return std::move(field_);
    }

  private:
    static constexpr float kGood = 1.5f;       // levels of mean difference that end a search
    static constexpr float kMargin = 1.0f;     // levels by which a vector must beat staying,
    static constexpr float kShare = 0.75f;     // and the share of the difference that it may leave
    static constexpr float kSlope = 1 / 32.f;  // levels a pixel of distance from a candidate costs
    static constexpr int kSteps = 16;

    struct Best {
        Vector at;
        uint32_t sum;
    };

    void set(int block, Vector v, uint32_t sum) {
        best_ = {v, sum};
        pixels_ = blocks_.pixels(block);
        good_ = static_cast<uint32_t>(kGood * static_cast<float>(pixels_));
        slope_ = static_cast<uint32_t>(kSlope * static_cast<float>(pixels_));
    }

    void start(int block, Vector stay) {
        const auto i = static_cast<size_t>(block);
        const uint32_t sum = stay == Vector{} ? still_[i] : blocks_.at(block, stay);
        stay_sums_[i] = field_.sums[i] = sum;
        set(block, stay, sum);
    }

    void resume(int block) {
        const auto i = static_cast<size_t>(block);
        set(block, field_.vectors[i], field_.sums[i]);
    }

    bool near(Vector v) const { return std::max(std::abs(v.y), std::abs(v.x)) <= settings_.reach; }

    void consider(int block, Vector v) {
        if (v == best_.at || !near(v)) return;
        const uint32_t sum = v == Vector{} ? still_[static_cast<size_t>(block)] : blocks_.at(block, v, best_.sum);
        if (sum < best_.sum) best_ = {v, sum};
    }

    // Steps of two in eight directions while they help, then of one; each pixel away from where it began must pay.
    void descend(int block) {
        static constexpr std::array<Vector, 8> kWide = {
            {{-2, 0}, {0, -2}, {0, 2}, {2, 0}, {-1, -1}, {-1, 1}, {1, -1}, {1, 1}}};
        static constexpr std::array<Vector, 4> kNear = {{{-1, 0}, {0, -1}, {0, 1}, {1, 0}}};
        const Vector from = best_.at;
        uint32_t cost = best_.sum;
        const auto step = [&](const auto& around) {
            const Vector centre = best_.at;
            for (const Vector& d : around) {
                const Vector v = {centre.y + d.y, centre.x + d.x};
                const uint32_t price = slope_ * static_cast<uint32_t>(std::abs(v.y - from.y) + std::abs(v.x - from.x));
                if (price >= cost || !near(v)) continue;
                const uint32_t sum = blocks_.at(block, v, cost - price);
                if (sum + price >= cost) continue;
                cost = sum + price;
                best_ = {v, sum};
            }
            return best_.at != centre;
        };
        int steps = 0;
        while (steps++ < kSteps && step(kWide)) {
        }
        while (steps++ < kSteps && step(kNear)) {
        }
    }

    bool matches(uint32_t sum) const {
        return static_cast<float>(sum) <= settings_.matched * static_cast<float>(pixels_);
    }

    void keep(int block, Vector stay) {
        const auto i = static_cast<size_t>(block);
        const float sum = static_cast<float>(best_.sum), before = static_cast<float>(stay_sums_[i]);
        const bool better =
            best_.at != stay && sum <= kShare * before && sum + kMargin * static_cast<float>(pixels_) <= before;
        field_.vectors[i] = better ? best_.at : stay;
        field_.sums[i] = better ? best_.sum : stay_sums_[i];
    }

    const Blocks& blocks_;
    const std::vector<uint32_t>& still_;
    const SearchSettings settings_;
    Field field_;
    std::vector<uint32_t> stay_sums_;
    Best best_ = {};
    uint32_t pixels_ = 0, good_ = 0, slope_ = 0;
};

}  // namespace flux
