// Luma of a row of pixels as bytes, for the motion aligner: plain loops, as wide as the variant's flags let them be.
#pragma once
#include <cstring>

#include "kernels.h"

namespace flux {
namespace {

void luma_u8(const uint8_t* rgb, int count, uint8_t* to) {
    for (int i = 0; i < count; ++i) {
        const uint16_t r = (uint16_t)(77 * rgb[3 * i]), g = (uint16_t)(150 * rgb[3 * i + 1]),
                       b = (uint16_t)(29 * rgb[3 * i + 2]);
        to[i] = (uint8_t)((uint16_t)(r + g + b + 128) >> 8);
    }
}

// `step` is a constant where this is called, so that each has its own loop.
inline bool luma_steps(const float* r, const float* g, const float* b, ptrdiff_t step, int count, float scale,
                       float offset, uint8_t* to) {
    constexpr uint32_t kExponent = 0x7f800000;
    uint32_t odd = 0;
    for (int i = 0; i < count; ++i) {
        float v = (0.299f * r[i * step] + 0.587f * g[i * step] + 0.114f * b[i * step]) * scale + offset;
        uint32_t bits;
        memcpy(&bits, &v, sizeof bits);
        odd |= (bits & kExponent) == kExponent;
        v = v > 0 ? v : 0;  // a NaN too
        v = v < 255 ? v : 255;
        to[i] = (uint8_t)(int)(v + 0.5f);
    }
    return !odd;
}

bool luma_f32(const float* r, const float* g, const float* b, ptrdiff_t step, int count, float scale, float offset,
              uint8_t* to) {
    if (step == 1) return luma_steps(r, g, b, 1, count, scale, offset, to);
    if (step == 3) return luma_steps(r, g, b, 3, count, scale, offset, to);
    return luma_steps(r, g, b, step, count, scale, offset, to);
}

}  // namespace
}  // namespace flux
