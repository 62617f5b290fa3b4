// Conversions between float and the bits of a half, as the device's instructions round: to nearest, ties to even.
#pragma once
#include <cstdint>
#include <cstring>

namespace flux {

inline float float_of_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16, exponent = (half >> 10) & 0x1fu;
    uint32_t fraction = half & 0x3ffu, bits;
    if (exponent == 0x1f) {
        bits = sign | 0x7f800000u | (fraction << 13);
    } else if (exponent) {
        bits = sign | ((exponent + 112) << 23) | (fraction << 13);
    } else {  // below the smallest normal number: an exact product
        float value = static_cast<float>(fraction) * 0x1p-24f;
        std::memcpy(&bits, &value, 4);
        bits |= sign;
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint16_t half_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7fffu);   // NaN
    if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds beyond 65504
    if (bits >= 0x38800000u) {                                              // a normal half
        bits += 0xfffu + ((bits >> 13) & 1u);
        return static_cast<uint16_t>(sign | ((bits - 0x38000000u) >> 13));
    }
    float small;
    std::memcpy(&small, &bits, 4);
    small += 0.5f;  // the addition rounds to a multiple of 2^-24, the step of a subnormal half
    std::memcpy(&bits, &small, 4);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
}

}  // namespace flux
