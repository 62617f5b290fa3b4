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

const Kernel& find(const std::string& name) {
    for (const Kernel& kernel : kKernels) {
        if (name == kernel.name) return kernel;
    }
    throw std::invalid_argument("no kernel named " + name);
}

void run(const Copy& copy, Order) { std::memcpy(copy.to, copy.from, copy.bytes); }

void run(const Launch& one, Order order) {
    const Kernel& kernel = find(one.kernel);
    require(kernel.argument_bytes == one.argument_bytes, one.kernel, ": ", one.argument_bytes,
            " bytes of arguments, expected ", kernel.argument_bytes);
    launch(kernel.call, one.arguments.data(), {one.blocks_x, one.blocks_y, device::kThreads, one.shared_bytes}, order);
}

}  // namespace

std::vector<std::string> kernel_names() {
    std::vector<std::string> names;
    for (const Kernel& kernel : kKernels) names.push_back(kernel.name);
    return names;
}

size_t argument_bytes(const std::string& kernel) { return find(kernel).argument_bytes; }

void run(const std::vector<Step>& steps, Order order) {
    for (const Step& step : steps) {
        std::visit([&](const auto& one) { run(one, order); }, step);
    }
}

}  // namespace shim
}  // namespace flux
