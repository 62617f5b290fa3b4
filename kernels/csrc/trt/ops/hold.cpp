#include "arguments.h"
#include "table.h"

namespace flux {
namespace {

constexpr std::array<const char*, 2> kKernels = {"hold_f32", "hold_f16"};

std::vector<Extents> extents(const Attributes&, const std::vector<int>& ranks) { return {shape_of(0, ranks[0])}; }

void check(const Attributes&, const std::vector<Shape>& inputs) {
    require(inputs[0] == inputs[1], "hold: new is ", text(inputs[0]), ", cache ", text(inputs[1]));
    for (size_t i : {2, 3}) {
        require(elements(inputs[i]) == 1, "hold: gate and fresh are one value each, not ", text(inputs[i]));
    }
}

void plan(const Call& call, std::vector<Step>& steps) {
    const Tensor& value = call.inputs[0];
    const device::Hold a = {value.data,
                            call.inputs[1].data,
                            call.outputs[0].data,
                            static_cast<const float*>(call.inputs[2].data),
                            flags(call.inputs[3]),
                            static_cast<int>(elements(value.shape))};
    if (a.elements) steps.push_back(launch(by_type(kKernels, value.type), a, 1, 1, slots<float>(2)));
}

}  // namespace

const Op& hold() {
    static const Op op = {
        "hold",
        {},
        {{"new", kReal}, {"cache", {}, 0}, {"gate", {Type::f32}}, {"fresh", kMask}},
        {{"held", {}, 0}},
        extents,
        check,
        nullptr,
        plan,
    };
    return op;
}

}  // namespace flux
