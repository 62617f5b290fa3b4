// Misses that made a difference: rows whose largest change exceeds `gate` times the standard deviation of the map.
// Three launches: moments of parts of the map, the bound of them, and then a thread an element, which reads the map only
// where its row missed. With a gate of 0 the map is not read for its moments.
#pragma once
#include "rows.cuh"

namespace flux {
namespace device {

struct Moments {
    float count, mean, squares;  // squares: sum of squared distances from the mean
};

struct Gate {
    const void* fresh;
    const void* old;
    Flags miss, out;
    const float* gate;
    Moments* parts;  // one a block of gate_moments
    float* bound;
    RowFactors layout;
    int elements, rows, part_count;
};

#if defined(FLUX_DEVICE_CODE)
__device__ inline Moments joined(const Moments& a, const Moments& b) {
    const float count = a.count + b.count;
    if (count == 0) return a;
    const float apart = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + apart * share, a.squares + b.squares + apart * apart * a.count * share};
}

struct JoinMoments {
    __device__ Moments operator()(const Moments& a, const Moments& b) const { return joined(a, b); }
};

template <class T>
__device__ void gate_moments(const Gate& a) {
    const int first = static_cast<int>(thread_number()), step = a.part_count * kThreads;
    for (int row = first; row < a.rows; row += step) set_flag(a.out, row, false);
    if (!(*a.gate > 0)) return;
    Moments mine = {0, 0, 0};
    for (int i = first; i < a.elements; i += step) {
        mine = joined(mine, {1, real(static_cast<const T*>(a.fresh)[i]), 0});
    }
    const Moments all = merged(mine, static_cast<Moments*>(shared_memory()), JoinMoments());
    if (threadIdx.x == 0) a.parts[blockIdx.x] = all;
}

__device__ inline void gate_bound(const Gate& a) {
    float bound = *a.gate;
    if (bound > 0 && a.elements > 1) {
        Moments mine = {0, 0, 0};
        for (int i = static_cast<int>(threadIdx.x); i < a.part_count; i += kThreads) mine = joined(mine, a.parts[i]);
        const Moments all = merged(mine, static_cast<Moments*>(shared_memory()), JoinMoments());
        bound *= sqrtf(all.squares / (all.count - 1));
    }
    if (threadIdx.x == 0) *a.bound = bound;
}

template <class T>
__device__ void gate_rows(const Gate& a) {
    const int i = static_cast<int>(thread_number());
    if (i >= a.elements) return;
    const int row = row_of(a.layout, i);
    if (!flag_of(a.miss, row)) return;
    const float change = fabsf(real(static_cast<const T*>(a.fresh)[i]) - real(static_cast<const T*>(a.old)[i]));
    if (!(change <= *a.bound)) set_flag(a.out, row, true);  // what cannot be compared has changed
}
#endif

#define FLUX_GATE(ENTRY)                               \
    ENTRY(gate_moments_f32, gate_moments<float>, Gate) \
    ENTRY(gate_moments_f16, gate_moments<Half>, Gate)  \
    ENTRY(gate_bound, gate_bound, Gate)                \
    ENTRY(gate_rows_f32, gate_rows<float>, Gate)       \
    ENTRY(gate_rows_f16, gate_rows<Half>, Gate)
FLUX_GATE(FLUX_ENTRY)

}  // namespace device
}  // namespace flux
