// The fastest this core multiplies and adds: what benchmarks measure the kernels against.
//
//   f32_peak_plain   one chain of scalar multiply-adds (says nothing about the core, only that the caller works)
//   f32_peak_*       enough independent chains of vector multiply-adds to fill both units
#pragma once
#include "kernels.h"
#if defined(FLUX_LANES)
#include "vec.h"
#endif

namespace flux {
namespace {

#if !defined(FLUX_LANES)

double peak(int64_t rounds) {
    volatile float x = 1;
    for (int64_t i = 0; i < rounds; ++i) x = x * 0.5f + 0.5f;
    return 2. * (double)rounds;
}

#else

double peak(int64_t rounds) {
    constexpr int kChains = 12;
    V acc[kChains];
    for (int i = 0; i < kChains; ++i) acc[i] = splat((float)i);
    volatile float half = 0.5f;  // or the compiler would know the outcome
    const V a = splat(half), b = splat(half);
    for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
        for (int i = 0; i < kChains; ++i) acc[i] = acc[i] * a + b;
    }
    for (int i = 1; i < kChains; ++i) acc[0] += acc[i];
    volatile float keep = sum(acc[0]);
    (void)keep;
    return 2. * kChains * kLanes * (double)rounds;
}

#endif

}  // namespace
}  // namespace flux
