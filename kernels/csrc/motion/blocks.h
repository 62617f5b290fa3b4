// Square blocks of pixels of a frame: how far they are from the reference image, how much they vary by themselves, and
// masks of pixels painted from them.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../cpu/kernels.h"

namespace flux {

// frame: (height, width, channels), planar or not, seen as frame * gain + bias of its channel; reference: channels last.
// out: one value a block, the blocks of the last row and column smaller where the frame is no multiple of them.
// Whole lines are added up element by element, which vectorises; blocks are summed from that.
template <class T, class R>
void block_residual(const Kernels& kernels, const T* frame, bool planar, const R* reference, int height, int width,
                    int channels, int block, const float* gain, const float* bias, float* out) {
    const int across = (width + block - 1) / block, each = planar ? 1 : channels, length = width * each;
    const int planes = planar ? channels : 1;
    std::vector<float> lines(static_cast<size_t>(length)), gains(lines), biases(lines);
    float* total = lines.data();
    const auto see = [&](int first) {
        for (int i = 0; i < length; ++i) {
            gains[static_cast<size_t>(i)] = gain[first + i % each];
            biases[static_cast<size_t>(i)] = bias[first + i % each];
        }
    };
    see(0);
    for (int first = 0; first < height; first += block, out += across) {
        const int count = std::min(block, height - first);
        std::fill(out, out + across, 0.f);
        for (int c = 0; c < planes; ++c) {
            if (planar) see(c);
            std::fill(total, total + length, 0.f);
            for (int y = first; y < first + count; ++y) {
                const T* a = frame + (static_cast<ptrdiff_t>(c) * height + y) * length;
                const R* b = reference + static_cast<ptrdiff_t>(y) * width * channels + c;
                kernels.residuals(a, gains.data(), biases.data(), b, planar ? channels : 1, length, total);
            }
            for (int x = 0; x < across; ++x) {
                const int begin = x * block * each, end = std::min(length, begin + block * each);
                for (int i = begin; i < end; ++i) out[x] += total[i];
            }
        }
        for (int x = 0; x < across; ++x) {
            out[x] /= static_cast<float>(count * std::min(block, width - x * block) * channels);
        }
    }
}

// out: by how much each block would differ if it was seen a pixel off, down and across: the mean difference from the pixel
// below plus that from the pixel to the right, of the mean of the channels; 0 where `residual` is at most `least`. Large on
// fine texture; small on a flat block and on one with a single edge, where what differs is no texture half a pixel off.
template <class T>
void block_gradient(const T* frame, bool planar, int height, int width, int channels, int block, const float* residual,
                    float least, float* out) {
    const ptrdiff_t pixel = planar ? 1 : channels, channel = planar ? static_cast<ptrdiff_t>(height) * width : 1;
    const auto grey = [&](int y, int x) {  // times the number of channels
        const T* at = frame + (static_cast<ptrdiff_t>(y) * width + x) * pixel;
        float sum = 0;
        for (int c = 0; c < channels; ++c) sum += static_cast<float>(at[c * channel]);
        return sum;
    };
    std::vector<float> above(static_cast<size_t>(block) + 1), line(above);
    for (int top = 0; top < height; top += block) {
        for (int left = 0; left < width; left += block, ++residual, ++out) {
            *out = 0;
            if (!(*residual > least)) continue;
            const int rows = std::min(block, height - top), columns = std::min(block, width - left);
            const int seen = std::min(columns + 1, width - left);  // with the pixel to the right, where there is one
            float sum = 0;
            for (int y = top; y < std::min(top + block + 1, height); ++y) {
                const bool own = y < top + rows;
                for (int x = 0; x < seen; ++x) line[static_cast<size_t>(x)] = grey(y, left + x);
                for (int x = 0; y > top && x < columns; ++x) {
                    sum += std::fabs(line[static_cast<size_t>(x)] - above[static_cast<size_t>(x)]);
                }
                for (int x = 1; own && x < seen; ++x) {
                    sum += std::fabs(line[static_cast<size_t>(x)] - line[static_cast<size_t>(x) - 1]);
                }
                std::swap(line, above);
            }
            *out = sum / static_cast<float>(rows * columns * channels);
        }
    }
}

// Sets the pixels of every block whose level is above 0 in `miss`, and in `bound` those within its radius, which is
// radii[level - 1]; clears all others.
inline void paint_blocks(const uint8_t* levels, int height, int width, int block, const int* radii, uint8_t* miss,
                         uint8_t* bound) {
    const int down = (height + block - 1) / block, across = (width + block - 1) / block;
    const size_t pixels = static_cast<size_t>(height) * static_cast<size_t>(width);
    std::fill(miss, miss + pixels, uint8_t{0});
    std::fill(bound, bound + pixels, uint8_t{0});
    const auto fill = [&](uint8_t* to, int y0, int x0, int y1, int x1) {
        y0 = std::max(y0, 0), x0 = std::max(x0, 0), y1 = std::min(y1, height), x1 = std::min(x1, width);
        for (int y = y0; y < y1; ++y) {
            uint8_t* line = to + static_cast<ptrdiff_t>(y) * width;
            std::fill(line + x0, line + x1, uint8_t{1});
        }
    };
    for (int by = 0; by < down; ++by) {
        const uint8_t* line = levels + static_cast<ptrdiff_t>(by) * across;
        for (int bx = 0; bx < across;) {
            const uint8_t level = line[bx];
            const int first = bx++;
            if (!level) continue;
            while (bx < across && line[bx] == level) ++bx;
            const int y = by * block, x0 = first * block, x1 = bx * block, r = radii[level - 1];
            fill(miss, y, x0, y + block, x1);
            fill(bound, y - r, x0 - r, y + block + r, x1 + r);
        }
    }
}

// The pixels of the blocks that are set, as frame * gain + bias of their channel; bytes are rounded.
template <class T>
void expose_blocks(T* frame, bool planar, int height, int width, int channels, int block, const uint8_t* blocks,
                   const float* gain, const float* bias) {
    const int across = (width + block - 1) / block;
    const ptrdiff_t pixel = planar ? 1 : channels, channel = planar ? static_cast<ptrdiff_t>(height) * width : 1;
    for (int y = 0; y < height; ++y) {
        const uint8_t* line = blocks + static_cast<ptrdiff_t>(y / block) * across;
        for (int bx = 0; bx < across; ++bx) {
            if (!line[bx]) continue;
            for (int x = bx * block; x < std::min((bx + 1) * block, width); ++x) {
                T* at = frame + (static_cast<ptrdiff_t>(y) * width + x) * pixel;
                for (int c = 0; c < channels; ++c) {
                    const float value = static_cast<float>(at[c * channel]) * gain[c] + bias[c];
                    if constexpr (sizeof(T) == 1) {
                        at[c * channel] = static_cast<T>(std::min(std::max(std::nearbyint(value), 0.f), 255.f));
                    } else {
                        at[c * channel] = value;
                    }
                }
            }
        }
    }
}

}  // namespace flux
