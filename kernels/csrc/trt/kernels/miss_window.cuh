// Misses of a window op: an output misses when anything it reads does. A thread an output.
#pragma once
#include "device.cuh"

namespace flux {
namespace device {

struct MissWindow {
    Flags miss;                // [height, width]
    Flags out;                 // [out_height, out_width]
    Indices reads_y, reads_x;  // [out_height, taps_y] and [out_width, taps_x], -1 for padding
    int width, out_height, out_width, taps_y, taps_x;
};

#if defined(FLUX_DEVICE_CODE)
__device__ inline void miss_window(const MissWindow& a) {
    const int i = static_cast<int>(thread_number());
    if (i >= a.out_height * a.out_width) return;
    const int y = i / a.out_width, x = i % a.out_width;
    bool missed = false;
    for (int j = y * a.taps_y; j < (y + 1) * a.taps_y && !missed; ++j) {
        const int line = index_of(a.reads_y, j);
        for (int k = x * a.taps_x; line >= 0 && k < (x + 1) * a.taps_x && !missed; ++k) {
            const int column = index_of(a.reads_x, k);
            missed = column >= 0 && flag_of(a.miss, line * a.width + column);
        }
    }
    set_flag(a.out, i, missed);
}
#endif

#define FLUX_MISS_WINDOW(ENTRY) ENTRY(miss_window, miss_window, MissWindow)
FLUX_MISS_WINDOW(FLUX_ENTRY)

}  // namespace device
}  // namespace flux
