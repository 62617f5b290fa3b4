// Luma planes and their pyramids: level k + 1 is level k halved, each cell the mean of two by two.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace flux {

inline constexpr int kMotionBlock = 16;  // frame pixels a motion vector
inline constexpr int kLevels = 4;        // the last one's cells are means of 8 x 8 pixels

struct Area {
    int y0, x0, y1, x1;
};

struct Plane {
    int height = 0, width = 0;
    std::vector<uint8_t> cells;

    void resize(int h, int w) {
        height = h;
        width = w;
        cells.assign(static_cast<size_t>(h) * static_cast<size_t>(w), 0);
    }
    const uint8_t* at(int y, int x) const { return cells.data() + static_cast<ptrdiff_t>(y) * width + x; }
    uint8_t* at(int y, int x) { return cells.data() + static_cast<ptrdiff_t>(y) * width + x; }
};

using Pyramid = std::array<Plane, kLevels>;

inline void resize(Pyramid& p, int height, int width) {
    for (int k = 0; k < kLevels; ++k) p[static_cast<size_t>(k)].resize(height >> k, width >> k);
}

// Levels 1 .. 3 of an area of level 0; what it touches lies between multiples of 8.
inline void halve(Pyramid& p, const Area& area) {
    Area a = area;
    for (size_t k = 1; k < kLevels; ++k) {
        const Plane& from = p[k - 1];
        Plane& to = p[k];
        a = {a.y0 / 2, a.x0 / 2, std::min((a.y1 + 1) / 2, to.height), std::min((a.x1 + 1) / 2, to.width)};
        for (int y = a.y0; y < a.y1; ++y) {
            const uint8_t *up = from.at(2 * y, 2 * a.x0), *down = from.at(2 * y + 1, 2 * a.x0);
            uint8_t* row = to.at(y, a.x0);
            for (int x = 0; x < a.x1 - a.x0; ++x) {
                const auto sum = static_cast<uint16_t>(up[2 * x] + up[2 * x + 1] + down[2 * x] + down[2 * x + 1] + 2);
                row[x] = static_cast<uint8_t>(sum >> 2);
            }
        }
    }
}

}  // namespace flux
