// Vectors of FLUX_LANES floats in the compiler's own vector arithmetic, and the few functions it has no sign for.
// Included by one variant a translation unit, each with its own flags: all of it has internal linkage, and none of the
// standard library's templates is used, or the linker might keep another variant's copy.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define FLUX_INLINE inline __attribute__((always_inline))

namespace flux {
namespace {

constexpr int kLanes = FLUX_LANES;
typedef float V __attribute__((vector_size(FLUX_LANES * 4)));
typedef int32_t I __attribute__((vector_size(FLUX_LANES * 4)));
typedef uint32_t U __attribute__((vector_size(FLUX_LANES * 4)));  // for sums that may overflow

FLUX_INLINE V splat(float x) { return x - V{}; }  // x - 0 is x for every x, -0 and NaN too

FLUX_INLINE V load(const float* p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}

FLUX_INLINE void store(float* p, V v) { memcpy(p, &v, sizeof v); }

// The first n lanes, 0 < n <= kLanes; the others read as 0 and are not written.
FLUX_INLINE V load(const float* p, int n) {
#if FLUX_LANES == 16 && defined(__AVX512F__)
    return (V)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    if (n == kLanes) return load(p);
    V v = {};
    for (int i = 0; i < n; ++i) v[i] = p[i];
    return v;
#endif
}

FLUX_INLINE void store(float* p, V v, int n) {
#if FLUX_LANES == 16 && defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    if (n == kLanes) return store(p, v);
    for (int i = 0; i < n; ++i) p[i] = v[i];
#endif
}

// The second argument wins over a NaN in the first only if it is NaN itself: NaN in x stays.
FLUX_INLINE V at_least(V x, V low) { return x < low ? low : x; }
FLUX_INLINE V at_most(V x, V high) { return x > high ? high : x; }
FLUX_INLINE V magnitude(V x) { return (V)((I)x & 0x7fffffff); }

FLUX_INLINE bool any(I mask) {
#if FLUX_LANES == 8 && defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
    int32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= mask[i];
    return bits != 0;
#endif
}

#if defined(__clang__)
#define FLUX_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FLUX_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, I{__VA_ARGS__})
#endif

template <int... lane>
struct Lanes {};

#if FLUX_LANES == 4
typedef Lanes<0, 1, 2, 3> AllLanes;
#elif FLUX_LANES == 8
typedef Lanes<0, 1, 2, 3, 4, 5, 6, 7> AllLanes;
#else
typedef Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15> AllLanes;
#endif

// Swaps the lanes of a that have bit `s` set with those of b that have not.
template <int s, int... lane>
FLUX_INLINE void swap_lanes(V& a, V& b, Lanes<lane...>) {
    const V low = FLUX_SHUFFLE(a, b, ((lane & s) ? kLanes + lane - s : lane)...);
    b = FLUX_SHUFFLE(a, b, ((lane & s) ? kLanes + lane : lane + s)...);
    a = low;
}

template <int s>
FLUX_INLINE void transpose_bits(V* rows) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
        if (!(i & s)) swap_lanes<s>(rows[i], rows[i + s], AllLanes{});
    }
    if constexpr (s > 1) transpose_bits<s / 2>(rows);
}

// kLanes vectors as a square: rows become columns.
FLUX_INLINE void transpose(V* rows) { transpose_bits<kLanes / 2>(rows); }

template <int s, int... lane>
FLUX_INLINE V across(V v, Lanes<lane...>) {
    return FLUX_SHUFFLE(v, v, (lane ^ s)...);
}

// Folds the lanes of v by halves.
template <int s = kLanes / 2, class F>
FLUX_INLINE float fold(V v, F&& f) {
    v = f(v, across<s>(v, AllLanes{}));
    if constexpr (s > 1) {
        return fold<s / 2>(v, f);
    } else {
        return v[0];
    }
}

FLUX_INLINE float sum(V v) {
    return fold(v, [](V a, V b) { return a + b; });
}

FLUX_INLINE float largest(V v) {
    return fold(v, [](V a, V b) { return at_least(a, b); });
}

// The sum of f(c) for c = 0, kLanes .. full, in chains that do not wait for each other.
template <class F>
FLUX_INLINE float sum_of(int full, F&& f) {
    V a = {}, b = {}, c = {}, d = {};
    int i = 0;
    for (; i + 4 * kLanes <= full; i += 4 * kLanes) {
        a += f(i);
        b += f(i + kLanes);
        c += f(i + 2 * kLanes);
        d += f(i + 3 * kLanes);
    }
    for (; i < full; i += kLanes) a += f(i);
    return sum((a + b) + (c + d));
}

}  // namespace
}  // namespace flux
