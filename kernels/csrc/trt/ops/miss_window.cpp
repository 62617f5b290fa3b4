#include "arguments.h"
#include "table.h"

namespace flux {
namespace {

std::vector<Extents> extents(const Attributes&, const std::vector<int>&) { return {{{1, {{1, 0}, {2, 0}}}}}; }

void check(const Attributes& attributes, const std::vector<Shape>& inputs) {
    const std::vector<int32_t>& size = ints(attributes, "size");
    require(size[0] > 0 && size[1] > 0 && inputs[0][0] == int64_t{size[0]} * size[1], "miss_window: miss has ",
            inputs[0][0], " rows, the map ", size[0], " x ", size[1], " cells");
}

void plan(const Call& call, std::vector<Step>& steps) {
    const Tensor &reads_y = call.inputs[1], &reads_x = call.inputs[2], &out = call.outputs[0];
    device::MissWindow a = {};
    a.miss = flags(call.inputs[0]);
    a.out = flags(out);
    a.reads_y = indices(reads_y), a.reads_x = indices(reads_x);
    a.width = ints(call.attributes, "size")[1];
    a.out_height = static_cast<int>(reads_y.shape[0]), a.out_width = static_cast<int>(reads_x.shape[0]);
    a.taps_y = static_cast<int>(reads_y.shape[1]), a.taps_x = static_cast<int>(reads_x.shape[1]);
    if (elements(out.shape)) steps.push_back(launch("miss_window", a, blocks_for(elements(out.shape))));
}

}  // namespace

const Op& miss_window() {
    static const Op op = {
        "miss_window",
        {{"size", false, 2}},
        {{"miss", kMask, -1, 1}, {"reads_y", kList, -1, 2}, {"reads_x", kList, -1, 2}},
        {{"window", {}, 0}},
        extents,
        check,
        nullptr,
        plan,
    };
    return op;
}

}  // namespace flux
