// Tiles with their halo, each cut out of a map into a place of a packed batch. A block of threads copies a part of one
// tile, neighbours along the innermost dimension. The copy is by bits, so it knows element sizes, not types.
#pragma once
#include "device.cuh"

namespace flux {
namespace device {

struct HaloGather {
    const void* x;
    void* out;  // [tiles * batch, outer, extent_y, middle, extent_x, inner]
    Indices tiles;
    MapShape map;
    int step_y, step_x, start_y, start_x, extent_y, extent_x;
    int clamp;
    unsigned long long fill;  // the bits of an element outside the map
};

#if defined(FLUX_DEVICE_CODE)
template <class T>
__device__ void halo_gather(const HaloGather& a) {
    const MapShape& m = a.map;
    const int inside = m.outer * a.extent_y * m.middle * a.extent_x * m.inner;
    const int i = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
    if (i >= inside) return;
    const int block = static_cast<int>(blockIdx.x), tile = block / m.batch, sample = block % m.batch;

    int rest = i;
    const int inner = rest % m.inner;
    rest /= m.inner;
    int x = rest % a.extent_x + index_of(a.tiles, 2 * tile + 1) * a.step_x + a.start_x;
    rest /= a.extent_x;
    const int middle = rest % m.middle;
    rest /= m.middle;
    int y = rest % a.extent_y + index_of(a.tiles, 2 * tile) * a.step_y + a.start_y;
    const int outer = rest / a.extent_y;

    T value = static_cast<T>(a.fill);
    if (a.clamp) {
        y = min(max(y, 0), m.height - 1);
        x = min(max(x, 0), m.width - 1);
    }
    if (y >= 0 && y < m.height && x >= 0 && x < m.width) {
        const int line = ((sample * m.outer + outer) * m.height + y) * m.middle + middle;
        value = static_cast<const T*>(a.x)[(line * m.width + x) * m.inner + inner];
    }
    static_cast<T*>(a.out)[static_cast<long long>(block) * inside + i] = value;
}
#endif

#define FLUX_HALO_GATHER(ENTRY)                                    \
    ENTRY(halo_gather_8, halo_gather<unsigned char>, HaloGather)   \
    ENTRY(halo_gather_16, halo_gather<unsigned short>, HaloGather) \
    ENTRY(halo_gather_32, halo_gather<unsigned int>, HaloGather)   \
    ENTRY(halo_gather_64, halo_gather<unsigned long long>, HaloGather)
FLUX_HALO_GATHER(FLUX_ENTRY)

}  // namespace device
}  // namespace flux
