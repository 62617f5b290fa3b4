// How far a frame is from the reference image: the mean absolute difference of each square block of pixels.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace flux {

// frame: (height, width, channels), planar or not, seen as frame * gain + bias of its channel; reference: float, channels
// last. out: one value a block, the blocks
// of the last row and column smaller where the frame is no multiple of them. sums: as many floats as blocks in a row.
template <class T>
void block_residual(const T* frame, bool planar, const float* reference, int height, int width, int channels, int block,
                    const float* gain, const float* bias, float* sums, float* out) {
    const int across = (width + block - 1) / block;
    for (int first = 0; first < height; first += block, out += across) {
        const int lines = std::min(block, height - first);
        std::fill(sums, sums + across, 0.f);
        for (int y = first; y < first + lines; ++y) {
            const float* b = reference + static_cast<ptrdiff_t>(y) * width * channels;
            for (int c = 0; c < (planar ? channels : 1); ++c) {
                const ptrdiff_t step = planar ? channels : 1, each = planar ? 1 : channels;
                const T* a = planar ? frame + (static_cast<ptrdiff_t>(c) * height + y) * width
                                    : frame + static_cast<ptrdiff_t>(y) * width * channels;
                for (int x = 0; x < across; ++x) {
                    const ptrdiff_t begin = static_cast<ptrdiff_t>(x) * block * each;
                    const ptrdiff_t end = std::min(static_cast<ptrdiff_t>(width) * each, begin + block * each);
                    float sum = 0;
                    for (ptrdiff_t i = begin; i < end; i += each) {
                        for (ptrdiff_t k = 0; k < each; ++k) {
                            const ptrdiff_t channel = planar ? c : k;
                            const float seen = static_cast<float>(a[i + k]) * gain[channel] + bias[channel];
                            const float difference = seen - b[(i + k) * step + (planar ? c : 0)];
                            sum += difference < 0 ? -difference : difference;
                        }
                    }
                    sums[x] += sum;
                }
            }
        }
        for (int x = 0; x < across; ++x) {
            const int columns = std::min(block, width - x * block);
            out[x] = sums[x] / static_cast<float>(lines * columns * channels);
        }
    }
}

}  // namespace flux
