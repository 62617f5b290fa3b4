// One shift for the whole frame: every shift on the coarsest level, the best few refined level by level. A patch counts
// for at most kCap, so that something large that passes by does not outweigh the rest.
#pragma once
#include "difference.h"

namespace flux {

class ShiftSearch {
  public:
    ShiftSearch(const Pyramid& now, const Pyramid& reference) : now_(now), reference_(reference) {}

    // The best few shifts, best first as the coarsest level sees it; none where the frame is too small to tell.
    std::vector<Vector> operator()(int reach) const {
        const int h = now_[0].height, w = now_[0].width;
        if (std::min(h, w) < kMotionBlock) return {};
        const size_t top = std::min(h, w) < kSmall ? 0 : kLevels - 1;
        const int most = top ? reach >> top : std::min(reach, kSmallReach);
        const int reach_y = std::min(most, now_[top].height / 4), reach_x = std::min(most, now_[top].width / 4);
        std::vector<Scored> scores;
        for (int y = -reach_y; y <= reach_y; ++y) {
            for (int x = -reach_x; x <= reach_x; ++x) scores.push_back({cost(top, {y, x}), {y, x}});
        }
        std::vector<Vector> found;
        for (int i = 0; i < kFew; ++i) {
            const auto best = std::min_element(scores.begin(), scores.end(), before);
            if (best == scores.end() || best->cost == kNever) break;
            const Vector v = best->at;
            scores.erase(std::remove_if(scores.begin(), scores.end(),
                                        [&](const Scored& s) {
                                            return std::max(std::abs(s.at.y - v.y), std::abs(s.at.x - v.x)) <= 1;
                                        }),
                         scores.end());
            found.push_back(refined(top, v));
        }
        return found;
    }

  private:
    static constexpr int kSmall = 128, kSmallReach = 16, kFew = 3;
    static constexpr uint32_t kCap = 12;  // levels of mean difference
    static constexpr uint64_t kNever = ~uint64_t{0};

    struct Scored {
        uint64_t cost;
        Vector at;
    };

    // Of two as good the shorter, so that nothing moves without a reason.
    static bool before(const Scored& a, const Scored& b) {
        const auto length = [](Vector v) { return std::abs(v.y) + std::abs(v.x); };
        return a.cost != b.cost ? a.cost < b.cost : length(a.at) < length(b.at);
    }

    Vector refined(size_t level, Vector v) const {
        while (level-- > 0) {
            const Vector centre = {2 * v.y, 2 * v.x};
            Scored best = {kNever, centre};
            for (int y = -1; y <= 1; ++y) {
                for (int x = -1; x <= 1; ++x) {
                    const Vector at = {centre.y + y, centre.x + x};
                    const Scored here = {cost(level, at), at};
                    if (before(here, best)) best = here;
                }
            }
            v = best.at;
        }
        return v;
    }

    template <int kWidth, int kRows>
    uint64_t cost_of(const Plane& now, const Plane& then, Vector v, int skip) const {
        constexpr uint32_t most = kCap * kWidth * kRows;
        uint64_t sum = 0, patches = 0;
        for (int py = 0; py < now.height / kRows; ++py) {
            const int y = py * kRows;
            if (y + v.y < 0 || y + v.y + kRows > then.height) continue;
            for (int px = py % skip; px < now.width / kWidth; px += skip) {
                const int x = px * kWidth;
                if (x + v.x < 0 || x + v.x + kWidth > then.width) continue;
                sum += std::min(most, difference<kWidth>(now.at(y, x), now.width, then.at(y + v.y, x + v.x), then.width,
                                                         kRows, most));
                ++patches;
            }
        }
        return patches ? (sum << 16) / patches : kNever;
    }

    uint64_t cost(size_t level, Vector v) const {
        const Plane &now = now_[level], &then = reference_[level];
        if (level == 3) return cost_of<8, 4>(now, then, v, 1);
        if (level == 2) return cost_of<8, 8>(now, then, v, 1);
        return cost_of<16, 16>(now, then, v, level ? 1 : 2);
    }

    const Pyramid &now_, &reference_;
};

}  // namespace flux
