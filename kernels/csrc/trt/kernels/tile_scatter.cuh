// Fresh tiles of a packed batch laid over a map that holds the cache already; what lies outside is dropped.
#pragma once
#include "device.cuh"

namespace flux {
namespace device {

struct TileScatter {
    const void* tile;  // [tiles * batch, outer, size_y, middle, size_x, inner]
    void* out;
    Indices tiles;
    MapShape map;
    int size_y, size_x;
};

#if defined(FLUX_DEVICE_CODE)
template <class T>
__device__ void tile_scatter(const TileScatter& a) {
    const MapShape& m = a.map;
    const int inside = m.outer * a.size_y * m.middle * a.size_x * m.inner;
    const int i = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
    if (i >= inside) return;
    const int block = static_cast<int>(blockIdx.x), tile = block / m.batch, sample = block % m.batch;

    int rest = i;
    const int inner = rest % m.inner;
    rest /= m.inner;
    const int x = rest % a.size_x + index_of(a.tiles, 2 * tile + 1) * a.size_x;
    rest /= a.size_x;
    const int middle = rest % m.middle;
    rest /= m.middle;
    const int y = rest % a.size_y + index_of(a.tiles, 2 * tile) * a.size_y;
    const int outer = rest / a.size_y;

    if (y < 0 || y >= m.height || x < 0 || x >= m.width) return;
    const int line = ((sample * m.outer + outer) * m.height + y) * m.middle + middle;
    static_cast<T*>(a.out)[(line * m.width + x) * m.inner + inner] =
        static_cast<const T*>(a.tile)[static_cast<long long>(block) * inside + i];
}
#endif

#define FLUX_TILE_SCATTER(ENTRY)                                      \
    ENTRY(tile_scatter_8, tile_scatter<unsigned char>, TileScatter)   \
    ENTRY(tile_scatter_16, tile_scatter<unsigned short>, TileScatter) \
    ENTRY(tile_scatter_32, tile_scatter<unsigned int>, TileScatter)   \
    ENTRY(tile_scatter_64, tile_scatter<unsigned long long>, TileScatter)
FLUX_TILE_SCATTER(FLUX_ENTRY)

}  // namespace device
}  // namespace flux
