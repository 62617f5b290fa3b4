// How far the values of a line are from the reference, added to what other lines gave: plain loops, as wide as the
// variant's flags let them be.
#pragma once
#include "kernels.h"

namespace flux {
namespace {

template <class T, class R>
void add_residual(const T* a, const float* gain, const float* bias, const R* b, ptrdiff_t step, int count,
                  float* total) {
    const auto add = [&](ptrdiff_t apart) {  // a constant where it is called with one
        for (int i = 0; i < count; ++i)
            total[i] += __builtin_fabsf((float)a[i] * gain[i] + bias[i] - (float)b[i * apart]);
    };
    if (step == 1) return add(1);
    add(step);
}

// Each with the type of what is seen and of the reference.
constexpr Residuals kResiduals = {add_residual<uint8_t, uint8_t>, add_residual<uint8_t, float>,
                                  add_residual<float, float>};

}  // namespace
}  // namespace flux
