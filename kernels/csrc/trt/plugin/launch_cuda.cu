#include <stdexcept>
#include <string>

#include "../kernels/kernels.cuh"
#include "launch.h"

namespace flux {
namespace {

struct Kernel {
    const char* name;
    const void* function;
};

#define FLUX_ROW(name, kernel, Arguments) {#name, reinterpret_cast<const void*>(&device::entry::name)},
const Kernel kKernels[] = {FLUX_KERNELS(FLUX_ROW)};
#undef FLUX_ROW

const void* find(const std::string& name) {
    for (const Kernel& kernel : kKernels) {
        if (name == kernel.name) return kernel.function;
    }
    throw std::runtime_error("no kernel named " + name);
}

void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

void run(const Copy& copy, cudaStream_t stream) {
    check(cudaMemcpyAsync(copy.to, copy.from, copy.bytes, cudaMemcpyDeviceToDevice, stream), "a copy");
}

void run(const Launch& one, cudaStream_t stream) {
    auto arguments = one.arguments;  // the driver wants to be able to write
    void* parameters[] = {arguments.data()};
    check(cudaLaunchKernel(find(one.kernel), dim3(one.blocks_x, one.blocks_y), dim3(device::kThreads), parameters,
                           one.shared_bytes, stream),
          one.kernel);
}

}  // namespace

void run(const std::vector<Step>& steps, cudaStream_t stream) {
    for (const Step& step : steps) {
        std::visit([&](const auto& one) { run(one, stream); }, step);
    }
}

}  // namespace flux
