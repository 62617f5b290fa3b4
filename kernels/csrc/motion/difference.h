// Sums of absolute differences. On x86-64 the instruction for it is part of the baseline; elsewhere the compiler makes
// vectors of the plain loop, which is also the oracle.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "plane.h"

namespace flux {

inline uint32_t plain_difference(const uint8_t* a, ptrdiff_t line_a, const uint8_t* b, ptrdiff_t line_b, int rows,
                                 int columns) {
    uint32_t sum = 0;
    for (int y = 0; y < rows; ++y, a += line_a, b += line_b) {
        for (int x = 0; x < columns; ++x) sum += static_cast<uint32_t>(a[x] < b[x] ? b[x] - a[x] : a[x] - b[x]);
    }
    return sum;
}

#if defined(__SSE2__)
template <int kWidth>
__m128i load_row(const uint8_t* p) {
    if constexpr (kWidth == 16) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    } else {
        return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    }
}
#endif

// Of `rows` rows of 8 or 16; stops, with some sum of at least `limit`, once it is sure to reach that.
template <int kWidth>
uint32_t difference(const uint8_t* a, ptrdiff_t line_a, const uint8_t* b, ptrdiff_t line_b, int rows, uint32_t limit) {
    static_assert(kWidth == 8 || kWidth == 16, "a row is one load");
    uint32_t sum = 0;
    for (int y = 0; y < rows && sum < limit; y += 4) {
        const int n = rows - y < 4 ? rows - y : 4;
#if defined(__SSE2__)
        __m128i total = _mm_setzero_si128();
        for (int i = 0; i < n; ++i, a += line_a, b += line_b) {
            total = _mm_add_epi64(total, _mm_sad_epu8(load_row<kWidth>(a), load_row<kWidth>(b)));
        }
        total = _mm_add_epi64(total, _mm_unpackhi_epi64(total, total));
        sum += static_cast<uint32_t>(_mm_cvtsi128_si32(total));
#else
        sum += plain_difference(a, line_a, b, line_b, n, kWidth);
        a += n * line_a;
        b += n * line_b;
#endif
    }
    return sum;
}

inline constexpr uint32_t kNoLimit = ~0u;

struct Vector {
    int y = 0, x = 0;
    bool operator==(const Vector& v) const { return y == v.y && x == v.x; }
    bool operator!=(const Vector& v) const { return !(*this == v); }
};

// The blocks of a frame against the reference: each against what the caches hold there once they have moved by its
// vector. Pixels whose source lies outside do not move (`flux.shift_at`).
class Blocks {
  public:
    Blocks(const Plane& now, const Plane& reference)
        : now_(now),
          reference_(reference),
          rows_((now.height + kMotionBlock - 1) / kMotionBlock),
          columns_((now.width + kMotionBlock - 1) / kMotionBlock) {}

    int rows() const { return rows_; }
    int columns() const { return columns_; }
    int count() const { return rows_ * columns_; }

    Area area(int block) const {
        const int y = block / columns_ * kMotionBlock, x = block % columns_ * kMotionBlock;
        return {y, x, std::min(y + kMotionBlock, now_.height), std::min(x + kMotionBlock, now_.width)};
    }

    uint32_t pixels(int block) const {
        const Area a = area(block);
        return static_cast<uint32_t>((a.y1 - a.y0) * (a.x1 - a.x0));
    }

    // The sum at a vector; once it is sure to reach `limit`, some sum of at least that.
    uint32_t at(int block, Vector v, uint32_t limit = kNoLimit) const {
        const Area a = area(block);
        const Area in = {std::max(a.y0, -v.y), std::max(a.x0, -v.x), std::min(a.y1, now_.height - v.y),
                         std::min(a.x1, now_.width - v.x)};
        if (in.y0 >= in.y1 || in.x0 >= in.x1) return of(a, {}, limit);
        if (in.y0 == a.y0 && in.x0 == a.x0 && in.y1 == a.y1 && in.x1 == a.x1) return of(a, v, limit);
        return of(a, {}, kNoLimit) - of(in, {}, kNoLimit) + of(in, v, kNoLimit);
    }

  private:
    uint32_t of(const Area& a, Vector v, uint32_t limit) const {
        const uint8_t *now = now_.at(a.y0, a.x0), *then = reference_.at(a.y0 + v.y, a.x0 + v.x);
        if (a.x1 - a.x0 == kMotionBlock) {
            return difference<kMotionBlock>(now, now_.width, then, reference_.width, a.y1 - a.y0, limit);
        }
        return plain_difference(now, now_.width, then, reference_.width, a.y1 - a.y0, a.x1 - a.x0);
    }

    const Plane &now_, &reference_;
    int rows_, columns_;
};

}  // namespace flux
