// How far a frame is from the reference image: the mean absolute difference of each square block of pixels.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace flux {

// frame: (height, width, channels), planar or not, seen as frame * gain + bias of its channel; reference: float, channels
// last. out: one value a block, the blocks of the last row and column smaller where the frame is no multiple of them.
// Whole lines are added up element by element, which vectorises; blocks are summed from that.
template <class T>
void block_residual(const T* frame, bool planar, const float* reference, int height, int width, int channels, int block,
                    const float* gain, const float* bias, float* out) {
    const int across = (width + block - 1) / block;
    const ptrdiff_t each = planar ? 1 : channels, length = width * each;
    std::vector<float> lines(static_cast<size_t>(length)), gains(lines), biases(lines);
    float *total = lines.data(), *g = gains.data(), *o = biases.data();
    for (ptrdiff_t i = 0; i < length; ++i) {
        g[i] = gain[i % each];
        o[i] = bias[i % each];
    }
    for (int first = 0; first < height; first += block, out += across) {
        const int count = std::min(block, height - first);
        std::fill(out, out + across, 0.f);
        for (int c = 0; c < (planar ? channels : 1); ++c) {
            std::fill(total, total + length, 0.f);
            for (int y = first; y < first + count; ++y) {
                const float* b = reference + static_cast<ptrdiff_t>(y) * width * channels;
                if (planar) {
                    const T* a = frame + (static_cast<ptrdiff_t>(c) * height + y) * width;
                    for (ptrdiff_t i = 0; i < length; ++i) {
                        total[i] += std::fabs(static_cast<float>(a[i]) * gain[c] + bias[c] - b[i * channels + c]);
                    }
                } else {
                    const T* a = frame + y * length;
                    for (ptrdiff_t i = 0; i < length; ++i) {
                        total[i] += std::fabs(static_cast<float>(a[i]) * g[i] + o[i] - b[i]);
                    }
                }
            }
            for (int x = 0; x < across; ++x) {
                const ptrdiff_t begin = static_cast<ptrdiff_t>(x) * block * each;
                const ptrdiff_t end = std::min(length, begin + block * each);
                for (ptrdiff_t i = begin; i < end; ++i) out[x] += total[i];
            }
        }
        for (int x = 0; x < across; ++x) {
            out[x] /= static_cast<float>(count * std::min(block, width - x * block) * channels);
        }
    }
}

}  // namespace flux
