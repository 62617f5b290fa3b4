// A frame as it came - bytes or floats, interleaved or planar, one channel or three - and what is made of it: luma and
// the means of 8 x 8 pixels of each channel, in levels 0 .. 255.
#pragma once
#include <vector>

#include "../cpu/kernels.h"
#include "difference.h"

namespace flux {

struct Image {
    const void* at;
    bool bytes;
    int height, width, channels;
    ptrdiff_t line, pixel, channel;  // steps, in values
    float scale, offset;             // level = value * scale + offset; bytes are levels
};

// Luma of an area; false where a value is NaN or infinite.
inline bool make_luma(const Kernels& kernels, const Image& image, const Area& area, Plane& to) {
    bool finite = true;
    const int count = area.x1 - area.x0;
    for (int y = area.y0; y < area.y1; ++y) {
        const ptrdiff_t first = y * image.line + area.x0 * image.pixel;
        uint8_t* row = to.at(y, area.x0);
        if (image.bytes) {
            const uint8_t* from = static_cast<const uint8_t*>(image.at) + first;
            if (image.channels == 3) {
                kernels.luma_u8(from, count, row);
            } else {
                std::copy_n(from, count, row);
            }
        } else {
            const float* from = static_cast<const float*>(image.at) + first;
            const ptrdiff_t c = image.channels == 3 ? image.channel : 0;
            finite &=
                kernels.luma_f32(from, from + c, from + 2 * c, image.pixel, count, image.scale, image.offset, row);
        }
    }
    return finite;
}

struct Means {  // [channel][y][x], kOutside where there is none
    int height = 0, width = 0, channels = 0;
    std::vector<float> cells;

    void resize(int h, int w, int c) {
        height = h;
        width = w;
        channels = c;
        cells.assign(static_cast<size_t>(h) * static_cast<size_t>(w) * static_cast<size_t>(c), 0.f);
    }
    float* at(int c, int y, int x) { return cells.data() + (static_cast<ptrdiff_t>(c) * height + y) * width + x; }
    const float* at(int c, int y, int x) const {
        return cells.data() + (static_cast<ptrdiff_t>(c) * height + y) * width + x;
    }
};

inline constexpr float kOutside = -1;

// The cells in `area`, of pixels; each of what moves into it by `shift`, so that those of a frame stand beside the cells
// of its reference. `mean(y, x, cell)` sets the cell, of every channel, whose pixels begin at (y, x).
template <class F>
void each_mean(const Area& area, Vector shift, int height, int width, Means& to, F&& mean) {
    for (int y = area.y0 / 8; y < std::min((area.y1 + 7) / 8, to.height); ++y) {
        for (int x = area.x0 / 8; x < std::min((area.x1 + 7) / 8, to.width); ++x) {
            const int py = 8 * y - shift.y, px = 8 * x - shift.x;
            if (py >= 0 && px >= 0 && py + 8 <= height && px + 8 <= width) {
                mean(py, px, to.at(0, y, x));
            } else {
                for (int c = 0; c < to.channels; ++c) *to.at(c, y, x) = kOutside;
            }
        }
    }
}

template <class T>
void make_means_of(const Image& image, const Area& area, Vector shift, Means& to) {
    const T* from = static_cast<const T*>(image.at);
    const ptrdiff_t channel = static_cast<ptrdiff_t>(to.height) * to.width;
    const float scale = image.scale / 64;
    each_mean(area, shift, image.height, image.width, to, [&](int y, int x, float* cell) {
        for (int c = 0; c < image.channels; ++c) {
            const T* at = from + y * image.line + x * image.pixel + c * image.channel;
            std::conditional_t<std::is_same_v<T, uint8_t>, int, float> sums[8] = {};  // chains that do not wait
            for (int i = 0; i < 8; ++i) {
                for (int j = 0; j < 8; ++j) sums[j] += at[i * image.line + j * image.pixel];
            }
            for (int j = 1; j < 8; ++j) sums[0] += sums[j];
            cell[c * channel] = static_cast<float>(sums[0]) * scale + image.offset;
        }
    });
}

inline void make_means(const Image& image, const Area& area, Vector shift, Means& to) {
    image.bytes ? make_means_of<uint8_t>(image, area, shift, to) : make_means_of<float>(image, area, shift, to);
}

inline void make_means(const Plane& plane, Vector shift, Means& to) {
    static constexpr uint8_t kBlack[8] = {};
    each_mean({0, 0, plane.height, plane.width}, shift, plane.height, plane.width, to, [&](int y, int x, float* cell) {
        *cell = static_cast<float>(difference<8>(plane.at(y, x), plane.width, kBlack, 0, 8, kNoLimit)) / 64;
    });
}

}  // namespace flux
