// fluxcompile.kernels._device: what a GPU must do to run an op, planned on the CPU; pointers are numbers here. A build
// for tests also launches kernels, on the CPU and the CPU's memory, some of which are wrong on purpose.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "trt/kernels/kernels.cuh"
#include "trt/ops/op.h"
#if defined(FLUX_SHIM_MODULE)
#include "trt/shim/kernels.h"
#endif

namespace nb = nanobind;

namespace flux {
namespace {

using Address = uintptr_t;
using Described = std::tuple<Address, std::string, Shape>;
using PlannedCopy = std::tuple<Address, Address, size_t>;
using PlannedLaunch = std::tuple<std::string, unsigned, unsigned, size_t, nb::bytes>;

void* pointer(Address address) { return reinterpret_cast<void*>(address); }
Address address(const void* at) { return reinterpret_cast<Address>(at); }

Type find_type(const std::string& name) {
    for (Type type : kMoved) {
        if (name == info(type).name) return type;
    }
    throw std::invalid_argument("no tensor of " + name + " has kernels");
}

std::vector<Tensor> tensors(const std::vector<Described>& described) {
    std::vector<Tensor> found;
    for (const auto& [at, type, shape] : described) found.push_back({find_type(type), shape, pointer(at)});
    return found;
}

nb::list planned(const std::vector<Step>& steps) {
    nb::list found;
    for (const Step& step : steps) {
        if (const auto* copy = std::get_if<Copy>(&step)) {
            found.append(PlannedCopy(address(copy->to), address(copy->from), copy->bytes));
        } else {
            const Launch& one = std::get<Launch>(step);
            found.append(PlannedLaunch(one.kernel, one.blocks_x, one.blocks_y, one.shared_bytes,
                                       nb::bytes(one.arguments.data(), one.argument_bytes)));
        }
    }
    return found;
}

std::vector<std::string> names() {
    std::vector<std::string> found;
    for (const Op* op : ops()) found.emplace_back(op->name);
    return found;
}

bool takes(const std::string& name, const std::vector<std::string>& types) {
    const Op& op = find_op(name);
    std::vector<Type> found;
    for (const std::string& type : types) {
        const bool known = std::any_of(kMoved.begin(), kMoved.end(), [&](Type one) { return info(one).name == type; });
        if (!known || !accepts(op, found.size(), find_type(type), found)) return false;
        found.push_back(find_type(type));
    }
    return true;
}

// (type, shape) of each output.
std::vector<std::tuple<std::string, Shape>> outputs(const std::string& name, const Attributes& attributes,
                                                    const std::vector<std::string>& types,
                                                    const std::vector<Shape>& shapes) {
    const Op& op = find_op(name);
    check_attributes(op, attributes);
    const std::vector<Shape> wanted = output_shapes(op, attributes, shapes);
    std::vector<std::tuple<std::string, Shape>> found;
    for (size_t i = 0; i < wanted.size(); ++i) {
        const Port& port = op.outputs[i];
        const std::string type =
            port.like >= 0 ? types.at(static_cast<size_t>(port.like)) : std::string(info(port.types[0]).name);
        found.emplace_back(type, wanted[i]);
    }
    return found;
}

nb::list plan(const std::string& name, const Attributes& attributes, const std::vector<Described>& inputs,
              const std::vector<Described>& outputs, Address workspace) {
    const Op& op = find_op(name);
    check_attributes(op, attributes);
    const std::vector<Tensor> from = tensors(inputs), to = tensors(outputs);
    return planned(steps(op, {attributes, from, to, pointer(workspace)}));
}

}  // namespace

NB_MODULE(_device, m) {
    m.attr("THREADS") = device::kThreads;
    m.def("ops", names);
    m.def("takes", takes, nb::arg("op"), nb::arg("types"));
    m.def("outputs", outputs, nb::arg("op"), nb::arg("attributes"), nb::arg("types"), nb::arg("shapes"));
    m.def(
        "workspace_bytes",
        [](const std::string& name, const std::vector<Shape>& shapes) {
            return workspace_bytes(find_op(name), shapes);
        },
        nb::arg("op"), nb::arg("shapes"));
    m.def("plan", plan, nb::arg("op"), nb::arg("attributes"), nb::arg("inputs"), nb::arg("outputs"),
          nb::arg("workspace"));
#if defined(FLUX_SHIM_MODULE)
    m.def("kernels", shim::kernel_names);
    m.def("argument_bytes", shim::argument_bytes, nb::arg("kernel"));
    m.def(
        "launch_on_cpu",
        [](const std::string& name, unsigned blocks_x, unsigned blocks_y, size_t shared_bytes,
           const nb::bytes& arguments, bool backward) {
            require(arguments.size() <= kMostArgumentBytes, name, ": ", arguments.size(), " bytes of arguments");
            Launch one = {name.c_str(), blocks_x, blocks_y, shared_bytes, arguments.size(), {}};
            std::memcpy(one.arguments.data(), arguments.data(), arguments.size());
            shim::run({one}, backward ? shim::Order::backward : shim::Order::forward);
        },
        nb::arg("kernel"), nb::arg("blocks_x"), nb::arg("blocks_y"), nb::arg("shared_bytes"), nb::arg("arguments"),
        nb::arg("backward"));
#endif
}

}  // namespace flux
