// Tiles of a separable linear resize or pooling, from one table of taps and weights an axis. A thread an output.
#pragma once
#include "device.cuh"

namespace flux {
namespace device {

struct ResampleAxis {
    Indices taps;          // [outputs, taps], -1 for none
    const float* weights;  // [outputs, taps]
    int outputs, count;
};

struct Resample {
    const void* x;  // [channels, height, width]
    void* out;      // [tiles, channels, tile_y, tile_x]
    Indices tiles;
    ResampleAxis y, x_axis;
    int tile_count, channels, height, width, tile_y, tile_x;
};

#if defined(FLUX_DEVICE_CODE)
template <class T>
__device__ void resample(const Resample& a) {
    const int i = static_cast<int>(thread_number());
    if (i >= a.tile_count * a.channels * a.tile_y * a.tile_x) return;
    int rest = i;
    const int along = rest % a.tile_x;
    rest /= a.tile_x;
    const int down = rest % a.tile_y;
    rest /= a.tile_y;
    const int channel = rest % a.channels, tile = rest / a.channels;
    // Outputs outside are dropped by the scatter; they repeat the nearest.
    const int y = max(min(index_of(a.tiles, 2 * tile) * a.tile_y + down, a.y.outputs - 1), 0);
    const int x = max(min(index_of(a.tiles, 2 * tile + 1) * a.tile_x + along, a.x_axis.outputs - 1), 0);

    const T* map = static_cast<const T*>(a.x) + channel * a.height * a.width;
    float sum = 0;
    for (int j = y * a.y.count; j < (y + 1) * a.y.count; ++j) {
        const int line = index_of(a.y.taps, j);
        if (line < 0) continue;
        float part = 0;
        for (int k = x * a.x_axis.count; k < (x + 1) * a.x_axis.count; ++k) {
            const int column = index_of(a.x_axis.taps, k);
            if (column >= 0) part += a.x_axis.weights[k] * real(map[line * a.width + column]);
        }
        sum += a.y.weights[j] * part;
    }
    store(static_cast<T*>(a.out) + i, sum);
}
#endif

#define FLUX_RESAMPLE(ENTRY)                       \
    ENTRY(resample_f32, resample<float>, Resample) \
    ENTRY(resample_f16, resample<Half>, Resample)
FLUX_RESAMPLE(FLUX_ENTRY)

}  // namespace device
}  // namespace flux
