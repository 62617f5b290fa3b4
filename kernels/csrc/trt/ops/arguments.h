// Tensors and attributes as the arguments of kernels; kernels.cuh has what these are.
#pragma once
#include "../kernels/kernels.cuh"
#include "op.h"

namespace flux {

inline device::Indices indices(const Tensor& list) { return {list.data, static_cast<int>(info(list.type).bytes)}; }

inline device::Flags flags(const Tensor& mask) { return {mask.data, static_cast<int>(info(mask.type).bytes)}; }

inline int64_t blocks_for(int64_t threads) { return (threads + device::kThreads - 1) / device::kThreads; }

// Shared memory for so many values of a type a thread.
template <class T>
size_t slots(size_t count = 1) {
    return count * sizeof(T) * device::kThreads;
}

inline void check_map(const char* op, const std::vector<int32_t>& dims, const Shape& map) {
    const auto rank = static_cast<int32_t>(map.size());
    require(0 < dims[0] && dims[0] < dims[1] && dims[1] < rank, op, ": dims are ", dims[0], " and ", dims[1],
            " of a map ", text(map), "; they must ascend and leave out the first");
}

inline void check_tiles(const char* op, const Shape& tiles) {
    require(tiles.size() == 2 && tiles[1] == 2, op, ": tiles are ", text(tiles), ", expected (n x 2)");
}

inline device::MapShape map_shape(const std::vector<int32_t>& dims, const Shape& map) {
    const auto product = [&](int first, int end) {
        int64_t size = 1;
        for (int d = first; d < end; ++d) size *= map[static_cast<size_t>(d)];
        return static_cast<int>(size);
    };
    const int y = dims[0], x = dims[1], rank = static_cast<int>(map.size());
    return {product(0, 1),     product(1, y),     product(y, y + 1),
            product(y + 1, x), product(x, x + 1), product(x + 1, rank)};
}

// The shape of packed tiles: of so many cells, cut out of `map`, which is an input as `tiles` is.
inline Extents packed(int map, int tiles, const std::vector<int32_t>& dims, int rank,
                      const std::vector<int32_t>& cells) {
    Extents found = shape_of(map, rank);
    found[0].sizes.push_back({tiles, 0});
    for (size_t axis = 0; axis < 2; ++axis) {
        require(cells[axis] > 0, "a tile of ", cells[axis], " cells");
        if (dims[axis] >= 0 && dims[axis] < rank) found[static_cast<size_t>(dims[axis])] = {cells[axis]};
    }
    return found;
}

}  // namespace flux
