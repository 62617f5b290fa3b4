// Runs planned steps on a stream: launch_cuda.cu on a GPU, shim/launch.cpp on a CPU.
#pragma once
#include <cuda_runtime_api.h>

#include "../ops/op.h"

namespace flux {

// Throws std::runtime_error where the device refuses.
void run(const std::vector<Step>& steps, cudaStream_t stream);

}  // namespace flux
