// Kernels that are wrong on purpose, each as one of ours might be: what finds faults must find these.
#pragma once
#include "../kernels/device.cuh"

namespace flux {
namespace device {

struct Fault {
    const float* x;  // one value a thread of a block
    float* out;      // as many
    int count;
};

#if defined(FLUX_DEVICE_CODE)
// out[i] = x[count - 1 - i], through shared memory. The one that is right, as a control of the controls.
__device__ inline void fault_none(const Fault& a) {
    const int thread = static_cast<int>(threadIdx.x);
    float* slots = static_cast<float*>(shared_memory());
    if (thread < a.count) slots[thread] = a.x[thread];
    __syncthreads();
    if (thread < a.count) a.out[thread] = slots[a.count - 1 - thread];
}

__device__ inline void fault_no_barrier(const Fault& a) {
    const int thread = static_cast<int>(threadIdx.x);
    float* slots = static_cast<float*>(shared_memory());
    if (thread < a.count) slots[thread] = a.x[thread];
    if (thread < a.count) a.out[thread] = slots[a.count - 1 - thread];
}

__device__ inline void fault_barrier_in_a_branch(const Fault& a) {
    const int thread = static_cast<int>(threadIdx.x);
    float* slots = static_cast<float*>(shared_memory());
    if (thread < a.count) {
        slots[thread] = a.x[thread];
        __syncthreads();
        a.out[thread] = slots[a.count - 1 - thread];
    }
}

__device__ inline void fault_two_barriers(const Fault& a) {
    const int thread = static_cast<int>(threadIdx.x);
    float* slots = static_cast<float*>(shared_memory());
    if (thread < a.count) slots[thread] = a.x[thread];
    if (thread % 2) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    if (thread < a.count) a.out[thread] = slots[a.count - 1 - thread];
}

__device__ inline void fault_read_beyond(const Fault& a) {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < a.count) a.out[thread] = a.x[thread + 1];
}

__device__ inline void fault_write_beyond(const Fault& a) {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread <= a.count) a.out[thread] = 1;
}

__device__ inline void fault_shared_beyond(const Fault& a) {
    const int thread = static_cast<int>(threadIdx.x);
    static_cast<float*>(shared_memory())[thread + 1] = 1;
    if (thread < a.count) a.out[thread] = 1;
}

// The block that comes last wins.
__device__ inline void fault_order(const Fault& a) {
    if (threadIdx.x == 0) a.out[0] = static_cast<float>(blockIdx.x);
}
#endif

#define FLUX_FAULTS(ENTRY)                                             \
    ENTRY(fault_none, fault_none, Fault)                               \
    ENTRY(fault_no_barrier, fault_no_barrier, Fault)                   \
    ENTRY(fault_barrier_in_a_branch, fault_barrier_in_a_branch, Fault) \
    ENTRY(fault_two_barriers, fault_two_barriers, Fault)               \
    ENTRY(fault_read_beyond, fault_read_beyond, Fault)                 \
    ENTRY(fault_write_beyond, fault_write_beyond, Fault)               \
    ENTRY(fault_shared_beyond, fault_shared_beyond, Fault)             \
    ENTRY(fault_order, fault_order, Fault)
FLUX_FAULTS(FLUX_ENTRY)

}  // namespace device
}  // namespace flux
