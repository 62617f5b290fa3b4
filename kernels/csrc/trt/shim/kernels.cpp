#include "kernels.h"

#include "../kernels/kernels.cuh"
#include "faults.cuh"

namespace flux {
namespace shim {
namespace {

struct Kernel {
    const char* name;
    size_t argument_bytes;
    void (*call)(const void*);
};

#define FLUX_ROW(name, kernel, Arguments) \
    {#name, sizeof(device::Arguments),    \
     [](const void* a) { device::entry::name(*static_cast<const device::Arguments*>(a)); }},
const Kernel kKernels[] = {FLUX_KERNELS(FLUX_ROW) FLUX_FAULTS(FLUX_ROW)};
#undef FLUX_ROW

const Kernel& find(const Launch& launch) {
    for (const Kernel& kernel : kKernels) {
        if (kernel.name != std::string(launch.kernel)) continue;
        require(kernel.argument_bytes == launch.argument_bytes, launch.kernel, ": ", launch.argument_bytes,
                " bytes of arguments, expected ", kernel.argument_bytes);
        return kernel;
    }
    throw std::invalid_argument(std::string("no kernel named ") + launch.kernel);
}

void run(const Copy& copy, Order) { std::memcpy(copy.to, copy.from, copy.bytes); }

void run(const Launch& one, Order order) {
    const Grid grid = {one.blocks_x, one.blocks_y, device::kThreads, one.shared_bytes};
    launch(find(one).call, one.arguments.data(), grid, order);
}

}  // namespace

std::vector<std::string> kernel_names() {
    std::vector<std::string> names;
    for (const Kernel& kernel : kKernels) names.push_back(kernel.name);
    return names;
}

void run(const std::vector<Step>& steps, Order order) {
    for (const Step& step : steps) {
        std::visit([&](const auto& one) { run(one, order); }, step);
    }
}

}  // namespace shim
}  // namespace flux
