// A cache moved so that each row lies where its content is now. A thread an element.
#pragma once
#include "rows.cuh"

namespace flux {
namespace device {

struct MotionReindex {
    const void* cache;
    void* out;
    Indices source;  // the row that each row's content was in
    RowFactors layout;
    int elements;
};

#if defined(FLUX_DEVICE_CODE)
template <class T>
__device__ void motion_reindex(const MotionReindex& a) {
    const int i = static_cast<int>(thread_number());
    if (i >= a.elements) return;
    const int row = row_of(a.layout, i), source = index_of(a.source, row);
    const int from = source == row ? i : moved_to(a.layout, i, source);
    static_cast<T*>(a.out)[i] = static_cast<const T*>(a.cache)[from];
}
#endif

#define FLUX_MOTION_REINDEX(ENTRY)                                          \
    ENTRY(motion_reindex_8, motion_reindex<unsigned char>, MotionReindex)   \
    ENTRY(motion_reindex_16, motion_reindex<unsigned short>, MotionReindex) \
    ENTRY(motion_reindex_32, motion_reindex<unsigned int>, MotionReindex)   \
    ENTRY(motion_reindex_64, motion_reindex<unsigned long long>, MotionReindex)
FLUX_MOTION_REINDEX(FLUX_ENTRY)

}  // namespace device
}  // namespace flux
