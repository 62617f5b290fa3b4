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

inline void check_dims(const char* op, const std::vector<int32_t>& dims, int rank) {
    require(0 < dims[0] && dims[0] < dims[1] && dims[1] < rank, op, ": dims are ", dims[0], " and ", dims[1],
            " of a map of ", rank, " dimensions; they must ascend and leave out the first");
}

inline void check_tiles(const char* op, const Shape& tiles) {
    require(tiles[1] == 2, op, ": tiles are ", text(tiles), ", expected (n x 2)");
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

}  // namespace flux
