// How far the values of a line are from the reference, added to what other lines gave: plain loops, as wide as the
// variant's flags let them be.
#pragma once
#include "kernels.h"

namespace flux {
namespace {

template <class T>
void add_residual(const T* a, const float* gain, const float* bias, const float* b, ptrdiff_t step, int count,
                  float* total) {
    const auto add = [&](ptrdiff_t apart) {  // a constant where it is called with one
        for (int i = 0; i < count; ++i) total[i] += __builtin_fabsf((float)a[i] * gain[i] + bias[i] - b[i * apart]);
    };
    if (step == 1) return add(1);
    add(step);
}

void residual_u8(const uint8_t* a, const float* gain, const float* bias, const float* b, ptrdiff_t step, int count,
                 float* total) {
    add_residual(a, gain, bias, b, step, count, total);
}

void residual_f32(const float* a, const float* gain, const float* bias, const float* b, ptrdiff_t step, int count,
                  float* total) {
    add_residual(a, gain, bias, b, step, count, total);
}

}  // namespace
}  // namespace flux
