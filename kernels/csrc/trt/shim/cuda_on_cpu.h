// What device code needs of CUDA, for a C++ compiler: kernels become functions that a CPU runs, a thread of a block at a
// time (shim.h). Knows neither warps nor atomics, as no kernel uses them.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "../ops/half.h"

#define __global__
#define __device__
#define __syncthreads() flux::shim::barrier(__FILE__, __LINE__)

namespace flux {
namespace shim {

struct Place {
    unsigned x, y;
};

// The calling thread waits until all threads of its block have come to this line.
void barrier(const char* file, int line);

// Shared memory of the running block: full of NaN (every bit set) when the block begins.
void* shared_memory();

}  // namespace shim
}  // namespace flux

inline flux::shim::Place threadIdx, blockIdx;
using std::abs;
using std::max;
using std::min;
