// A value without a place, kept until its relative change (norm over norm) exceeds the gate. One block: such values are
// a few thousand numbers.
#pragma once
#include "device.cuh"

namespace flux {
namespace device {

struct Hold {
    const void* fresh_value;
    const void* cache;
    void* out;
    const float* gate;
    Flags fresh;
    int elements;
};

#if defined(FLUX_DEVICE_CODE)
struct HoldSums {
    float change, norm;
};

struct AddSums {
    __device__ HoldSums operator()(const HoldSums& a, const HoldSums& b) const {
        return {a.change + b.change, a.norm + b.norm};
    }
};

template <class T>
__device__ void hold(const Hold& a) {
    const T* value = static_cast<const T*>(a.fresh_value);
    const T* cache = static_cast<const T*>(a.cache);
    HoldSums mine = {0, 0};
    for (int i = static_cast<int>(threadIdx.x); i < a.elements; i += kThreads) {
        const float now = real(value[i]), was = real(cache[i]);
        mine.change += (now - was) * (now - was);
        mine.norm += was * was;
    }
    const HoldSums sums = merged(mine, static_cast<HoldSums*>(shared_memory()), AddSums());
    // False for a sum that is not finite: what cannot be compared is not held.
    const bool held = sqrtf(sums.change) <= *a.gate * sqrtf(sums.norm) && sums.change + sums.norm <= kLargest;
    const T* from = flag_of(a.fresh, 0) || !held ? value : cache;
    for (int i = static_cast<int>(threadIdx.x); i < a.elements; i += kThreads) static_cast<T*>(a.out)[i] = from[i];
}
#endif

#define FLUX_HOLD(ENTRY)               \
    ENTRY(hold_f32, hold<float>, Hold) \
    ENTRY(hold_f16, hold<Half>, Hold)
FLUX_HOLD(FLUX_ENTRY)

}  // namespace device
}  // namespace flux
