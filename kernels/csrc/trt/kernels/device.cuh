// What the kernel headers share. They are free of host includes: nvcc, NVRTC and, by way of the shim, a C++ compiler for
// the CPU read the same text. Each header holds its arguments as plain data, which the host fills; its kernels, which
// only a compiler of device code sees; and the list of their entry points.
#pragma once

#if defined(FLUX_SHIM)
#include "../shim/cuda_on_cpu.h"
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__) || defined(FLUX_SHIM)
#define FLUX_DEVICE_CODE 1
#endif

namespace flux {
namespace device {

constexpr int kThreads = 256;  // of a block, in every kernel: a power of two
constexpr float kLargest = 3.402823466e38f;

// Integers of 4 or 8 bytes: TensorRT lists rows as the one, torch as the other.
struct Indices {
    const void* at;
    int bytes;
};

// Booleans of 1 or 4 bytes: TensorRT's plugins take no others than int32.
struct Flags {
    void* at;
    int bytes;
};

// A tensor seen as [batch, outer, height, middle, width, inner]: the map's two dimensions, and what lies around them.
struct MapShape {
    int batch, outer, height, middle, width, inner;
};

struct Half {
    unsigned short bits;
};

#if defined(FLUX_DEVICE_CODE)

__device__ inline int index_of(const Indices& list, int i) {
    return list.bytes == 8 ? static_cast<int>(static_cast<const long long*>(list.at)[i])
                           : static_cast<const int*>(list.at)[i];
}

__device__ inline bool flag_of(const Flags& flags, int i) {
    return flags.bytes == 1 ? static_cast<const unsigned char*>(flags.at)[i] != 0
                            : static_cast<const int*>(flags.at)[i] != 0;
}

__device__ inline void set_flag(const Flags& flags, int i, bool value) {
    if (flags.bytes == 1) {
        static_cast<unsigned char*>(flags.at)[i] = value;
    } else {
        static_cast<int*>(flags.at)[i] = value;
    }
}

#if defined(FLUX_SHIM)
using shim::shared_memory;
inline float real(Half value) { return float_of_half(value.bits); }
inline Half half_of(float value) { return {half_of_float(value)}; }
#else
// Shared memory of a block, as many bytes as the launch asked for.
__device__ inline void* shared_memory() {
    extern __shared__ unsigned long long flux_shared[];
    return flux_shared;
}

__device__ inline float real(Half value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}

__device__ inline Half half_of(float value) {
    Half narrow;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
    return narrow;
}
#endif

__device__ inline float real(float value) { return value; }

__device__ inline void store(float* to, float value) { *to = value; }
__device__ inline void store(Half* to, float value) { *to = half_of(value); }

// The thread's number in a grid of blocks along x.
__device__ inline unsigned thread_number() { return blockIdx.x * kThreads + threadIdx.x; }

// Every thread's value merged into one that every thread gets; `slots` has one for each thread. Barriers: all call it.
template <class T, class F>
__device__ T merged(T value, T* slots, F merge) {
    const int thread = static_cast<int>(threadIdx.x);
    slots[thread] = value;
    __syncthreads();
    for (int half = kThreads / 2; half; half /= 2) {
        if (thread < half) slots[thread] = merge(slots[thread], slots[thread + half]);
        __syncthreads();
    }
    const T all = slots[0];
    __syncthreads();  // or the next call could write before everyone has read
    return all;
}

// A kernel under a name that a driver can look up.
#define FLUX_ENTRY(name, kernel, Arguments)                             \
    namespace entry {                                                   \
    extern "C" __global__ void name(Arguments a) { device::kernel(a); } \
    }
#else
#define FLUX_ENTRY(name, kernel, Arguments)
#endif

}  // namespace device
}  // namespace flux
