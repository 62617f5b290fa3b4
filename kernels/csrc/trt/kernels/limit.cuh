// Misses kept only in cells whose frame pixels touch what changes may reach. A thread a cell; only one that missed looks.
#pragma once
#include "device.cuh"

namespace flux {
namespace device {

// The frame pixels of each cell of one axis, [low, high).
struct Spans {
    Indices low, high;
};

struct Limit {
    Flags miss, out;  // [cells_y, cells_x]
    Flags reach;      // [height, width] of the frame
    Spans y, x;
    int cells_y, cells_x, width;
};

#if defined(FLUX_DEVICE_CODE)
__device__ inline void limit(const Limit& a) {
    const int i = static_cast<int>(thread_number());
    if (i >= a.cells_y * a.cells_x) return;
    const int row = i / a.cells_x, column = i % a.cells_x;
    bool kept = false;
    if (flag_of(a.miss, i)) {
        const int y1 = index_of(a.y.high, row), x0 = index_of(a.x.low, column), x1 = index_of(a.x.high, column);
        for (int y = index_of(a.y.low, row); y < y1 && !kept; ++y) {
            for (int x = x0; x < x1 && !kept; ++x) kept = flag_of(a.reach, y * a.width + x);
        }
    }
    set_flag(a.out, i, kept);
}
#endif

#define FLUX_LIMIT(ENTRY) ENTRY(limit, limit, Limit)
FLUX_LIMIT(FLUX_ENTRY)

}  // namespace device
}  // namespace flux
