// Gain and bias that take the frame's levels to the reference's: least squares over means of 8 x 8 pixels, those that
// something else than light changed left out.
#pragma once
#include <cmath>

#include "difference.h"
#include "image.h"

namespace flux {

struct Exposure {
    float gain = 1, bias = 0;
    float operator()(float level) const { return gain * level + bias; }
    bool changes() const { return std::max(std::fabs(bias), std::fabs((*this)(255) - 255)) >= 0.5f; }  // any level
};

inline float median_of(std::vector<float>& values) {
    const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

class ExposureFit {
  public:
    // Adds a cell of the frame and what the reference holds there; what is nearly black or white may have been cut off.
    void add(float now, float then) {
        if (std::min(now, then) < kDark || std::max(now, then) > kBright) return;
        now_.push_back(now);
        then_.push_back(then);
    }

    Exposure solve() {
        Exposure fit;
        if (now_.size() < kFewest) return fit;
        fit.bias = median_of(fill([&](size_t i) { return then_[i] - now_[i]; }));
        for (const float spread : {2.f, 2.5f, 2.5f}) {
            const auto off = [&](size_t i) { return std::fabs(fit(now_[i]) - then_[i]); };
            const float bound = std::max(spread * median_of(fill(off)), 1.f);
            fit = squares([&](size_t i) { return off(i) <= bound; });
        }
        return fit;
    }

  private:
    static constexpr float kDark = 4, kBright = 251, kLeast = 0.8f, kMost = 1.25f;
    static constexpr double kRidge = 4;  // a flat frame has no gain
    static constexpr size_t kFewest = 16, kSome = 400;

    // Of some hundred cells spread over the frame: a median of all is no better and takes most of the time.
    template <class F>
    std::vector<float>& fill(F&& value) {
        const size_t step = now_.size() / kSome | 1;
        work_.clear();
        for (size_t i = 0; i < now_.size(); i += step) work_.push_back(value(i));
        return work_;
    }

    template <class F>
    Exposure squares(F&& keep) const {
        double n = 0, a = 0, b = 0, aa = 0, ab = 0;
        for (size_t i = 0; i < now_.size(); ++i) {
            if (!keep(i)) continue;
            const double x = now_[i], y = then_[i];
            n += 1;
            a += x;
            b += y;
            aa += x * x;
            ab += x * y;
        }
        a /= n;
        b /= n;
        const double gain = (ab / n - a * b + kRidge) / (aa / n - a * a + kRidge);
        const float held = std::min(std::max(static_cast<float>(gain), kLeast), kMost);
        return {held, static_cast<float>(b - held * a)};
    }

    std::vector<float> now_, then_, work_;
};

inline Exposure fit_exposure(const Means& now, const Means& reference, int channel) {
    constexpr ptrdiff_t kCells = 2048;  // as good as all of them
    ExposureFit fit;
    const float *a = now.at(channel, 0, 0), *b = reference.at(channel, 0, 0);
    const ptrdiff_t n = static_cast<ptrdiff_t>(now.height) * now.width;
    const ptrdiff_t step = n / kCells | 1;  // odd, so that columns take turns
    for (ptrdiff_t i = 0; i < n; i += step) fit.add(a[i], b[i]);
    return fit.solve();
}

// What takes the frame's mean and spread to the reference's: rough, but wherever things have moved.
inline Exposure guess_exposure(const Plane& now, const Plane& reference) {
    const auto moments = [](const Plane& plane) {
        double a = 0, aa = 0;
        for (const uint8_t level : plane.cells) a += level, aa += level * level;
        const double n = std::max(1.0, static_cast<double>(plane.cells.size()));
        return std::pair(a / n, std::sqrt(std::max(0.0, aa / n - a / n * a / n)));
    };
    const auto [mean, spread] = moments(now);
    const auto [wanted, wanted_spread] = moments(reference);
    const double gain = std::min(std::max((wanted_spread + 1) / (spread + 1), 0.8), 1.25);
    return {static_cast<float>(gain), static_cast<float>(wanted - gain * mean)};
}

inline std::array<uint8_t, 256> levels_of(const Exposure& exposure) {
    std::array<uint8_t, 256> to;
    for (size_t i = 0; i < 256; ++i) {
        to[i] = static_cast<uint8_t>(std::min(std::max(exposure(static_cast<float>(i)), 0.f), 255.f) + 0.5f);
    }
    return to;
}

}  // namespace flux
