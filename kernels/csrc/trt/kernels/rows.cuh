// The rows of a layout, as kernels walk them. A tensor is a product of factors, outermost first; a factor either walks
// rows, `row_step` at a time, or (0) is free: channels, heads.
#pragma once
#include "device.cuh"

namespace flux {
namespace device {

constexpr int kMostFactors = 8;

struct RowFactors {
    int count;
    int size[kMostFactors], row_step[kMostFactors];
};

#if defined(FLUX_DEVICE_CODE)
__device__ inline int row_of(const RowFactors& factors, int element) {
    int row = 0;
    for (int f = factors.count - 1; f >= 0; --f) {
        row += element % factors.size[f] * factors.row_step[f];
        element /= factors.size[f];
    }
    return row;
}

// The element that lies in `row` as `element` lies in its own.
__device__ inline int moved_to(const RowFactors& factors, int element, int row) {
    int to = 0, stride = 1;
    for (int f = factors.count - 1; f >= 0; --f) {
        const int size = factors.size[f], step = factors.row_step[f];
        to += (step ? row / step : element) % size * stride;
        element /= size;
        stride *= size;
    }
    return to;
}
#endif

}  // namespace device
}  // namespace flux
