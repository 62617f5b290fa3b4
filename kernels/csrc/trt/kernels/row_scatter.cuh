// Fresh indices of one dimension laid over a tensor that holds the cache already; an index outside it is left out.
#pragma once
#include "device.cuh"

namespace flux {
namespace device {

struct RowScatter {
    const void* row;  // [outer, count, inner]
    void* out;        // [outer, size, inner]
    Indices rows;     // [count]
    int outer, count, size, inner;
};

#if defined(FLUX_DEVICE_CODE)
template <class T>
__device__ void row_scatter(const RowScatter& a) {
    const unsigned i = thread_number(), inner = static_cast<unsigned>(a.inner), count = static_cast<unsigned>(a.count);
    if (i >= static_cast<unsigned>(a.outer) * count * inner) return;
    const int row = index_of(a.rows, static_cast<int>(i / inner % count));
    if (row < 0 || row >= a.size) return;
    const unsigned outer = i / inner / count;
    static_cast<T*>(a.out)[(outer * static_cast<unsigned>(a.size) + static_cast<unsigned>(row)) * inner + i % inner] =
        static_cast<const T*>(a.row)[i];
}
#endif

#define FLUX_ROW_SCATTER(ENTRY)                                    \
    ENTRY(row_scatter_8, row_scatter<unsigned char>, RowScatter)   \
    ENTRY(row_scatter_16, row_scatter<unsigned short>, RowScatter) \
    ENTRY(row_scatter_32, row_scatter<unsigned int>, RowScatter)   \
    ENTRY(row_scatter_64, row_scatter<unsigned long long>, RowScatter)
FLUX_ROW_SCATTER(FLUX_ENTRY)

}  // namespace device
}  // namespace flux
