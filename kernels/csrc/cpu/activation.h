// Activations: std::exp and friends one by one (plain), polynomials on vectors.
//
// Vector exp: 2^n by its bits, the rest by a polynomial; arguments are held to [-86.6, 88]. Relative error
// below 3e-7 with fused multiply-adds, else below 4e-6 far from zero. gelu's erf is Abramowitz and Stegun 7.1.26, absolute
// error below 2e-7.
#pragma once
#include "kernels.h"
#if defined(FLUX_LANES)
#include "vec.h"
#else
#include <cmath>
#endif

namespace flux {
namespace {

#if !defined(FLUX_LANES)

inline float activate(Act act, float x, float a, float b, float slope) {
    switch (act) {
        case Act::clamp:
            return x < a ? a : x > b ? b : x;
        case Act::leaky:
            return x < 0 ? x * a : x;
        case Act::prelu:
            return x < 0 ? x * slope : x;
        case Act::silu:
            return x / (1 + std::exp(-x));
        case Act::sigmoid:
            return 1 / (1 + std::exp(-x));
        case Act::tanh:
            return std::tanh(x);
        case Act::hardswish:
            return x * std::fmin(std::fmax(x + 3, 0.f), 6.f) / 6;
        case Act::hardsigmoid:
            return std::isnan(x) ? x : std::fmin(std::fmax(x + 3, 0.f), 6.f) / 6;
        case Act::gelu:
            return x * 0.5f * (1 + std::erf(x * 0.70710678f));
        case Act::gelu_tanh:
            return x * 0.5f * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
        case Act::elu:
            return x < 0 ? a * std::expm1(x) : x;
        case Act::mish:
            return x * std::tanh(x > 20 ? x : std::log1p(std::exp(x)));
        case Act::none:
        case Act::count:
            break;
    }
    return x;
}

#else

FLUX_INLINE V exp(V x) {
    x = at_most(at_least(x, splat(-86.6f)), splat(88.f));
    const V magic = splat(12582912.f);  // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
    const V turns = x * 1.44269504f + magic;
    const V n = turns - magic;
    const V r = x - n * 0.693147182f;
    const V square = r * r;  // in halves: the chain of one term after the other would be twice as long
    const V high = (r * 0x1.0F9F9Cp-7f + 0x1.573A1Ap-5f) * square + (r * 0x1.555A80p-3f + 0x1.FFFDC6p-2f);
    const V p = high * square + (r * 0x1.FFFFF6p-1f + 1.f);
    return p * (V)(((U)turns << 23) + 0x3f800000u);  // a product, for a NaN may not end as a number
}

FLUX_INLINE V sigmoid(V x) { return 1.f / (1.f + exp(-x)); }

FLUX_INLINE V erf(V x) {
    const V z = magnitude(x), t = 1.f / (1.f + 0.3275911f * z);
    V p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const V y = 1.f - p * t * exp(-z * z);
    return (V)((I)y | ((I)x & (int32_t)0x80000000));
}

FLUX_INLINE V ramp(V x) { return at_most(at_least(x + 3.f, V{}), splat(6.f)) * (1.f / 6); }

template <Act kAct>
FLUX_INLINE V activate(V x, V a, V b, V slope) {
    if constexpr (kAct == Act::clamp) return at_most(at_least(x, a), b);
    if constexpr (kAct == Act::leaky) return x < 0.f ? x * a : x;
    if constexpr (kAct == Act::prelu) return x < 0.f ? x * slope : x;
    if constexpr (kAct == Act::silu) return x / (1.f + exp(-x));
    if constexpr (kAct == Act::sigmoid) return sigmoid(x);
    if constexpr (kAct == Act::tanh) return 2.f * sigmoid(2.f * x) - 1.f;
    if constexpr (kAct == Act::hardswish) return x * ramp(x);
    if constexpr (kAct == Act::hardsigmoid) return ramp(x);
    if constexpr (kAct == Act::gelu) return x * 0.5f * (1.f + erf(x * 0.70710678f));
    if constexpr (kAct == Act::gelu_tanh) return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x));
    if constexpr (kAct == Act::elu) return x < 0.f ? a * (exp(x) - 1.f) : x;
    if constexpr (kAct == Act::mish) {
        const V e = exp(at_most(x, splat(20.f))), n = e * (e + 2.f);  // tanh(log(1 + e)) = n / (n + 2)
        return x * (n / (n + 2.f));
    }
    return x;
}

// Calls f with the activation as a constant, so that the choice is made once for many vectors.
template <Act kAct>
struct Chosen {
    static constexpr Act act = kAct;
};

template <class F>
FLUX_INLINE void choose(Act act, F&& f) {
    switch (act) {
        case Act::none:
            return f(Chosen<Act::none>{});
        case Act::clamp:
            return f(Chosen<Act::clamp>{});
        case Act::leaky:
            return f(Chosen<Act::leaky>{});
        case Act::prelu:
            return f(Chosen<Act::prelu>{});
        case Act::silu:
            return f(Chosen<Act::silu>{});
        case Act::sigmoid:
            return f(Chosen<Act::sigmoid>{});
        case Act::tanh:
            return f(Chosen<Act::tanh>{});
        case Act::hardswish:
            return f(Chosen<Act::hardswish>{});
        case Act::hardsigmoid:
            return f(Chosen<Act::hardsigmoid>{});
        case Act::gelu:
            return f(Chosen<Act::gelu>{});
        case Act::gelu_tanh:
            return f(Chosen<Act::gelu_tanh>{});
        case Act::elu:
            return f(Chosen<Act::elu>{});
        case Act::mish:
            return f(Chosen<Act::mish>{});
        case Act::count:
            return;
    }
}

#endif

}  // namespace
}  // namespace flux
