#include "arguments.h"
#include "table.h"

// In place of the table's scale and origin, which are doubles, this takes what follows from them: the frame pixels of each
// cell, [low, high), along each axis.

namespace flux {
namespace {

enum Input { miss, reach, y_low, y_high, x_low, x_high };

std::vector<Extents> extents(const Attributes&, const std::vector<int>& ranks) { return {shape_of(miss, ranks[miss])}; }

void check(const Attributes& attributes, const std::vector<Shape>& inputs) {
    const std::vector<int32_t>& frame = ints(attributes, "frame");
    require(frame[0] > 0 && frame[1] > 0 && inputs[reach][0] == int64_t{frame[0]} * frame[1], "limit: reach has ",
            inputs[reach][0], " pixels, the frame ", frame[0], " x ", frame[1]);
    require(inputs[y_low] == inputs[y_high] && inputs[x_low] == inputs[x_high] &&
                inputs[miss][0] == inputs[y_low][0] * inputs[x_low][0],
            "limit: miss has ", inputs[miss][0], " cells, the spans are of ", inputs[y_low][0], " x ",
            inputs[x_low][0]);
}

void plan(const Call& call, std::vector<Step>& steps) {
    device::Limit a = {};
    a.miss = flags(call.inputs[miss]);
    a.out = flags(call.outputs[0]);
    a.reach = flags(call.inputs[reach]);
    a.y = {indices(call.inputs[y_low]), indices(call.inputs[y_high])};
    a.x = {indices(call.inputs[x_low]), indices(call.inputs[x_high])};
    a.cells_y = static_cast<int>(call.inputs[y_low].shape[0]);
    a.cells_x = static_cast<int>(call.inputs[x_low].shape[0]);
    a.width = ints(call.attributes, "frame")[1];
    const int64_t cells = elements(call.outputs[0].shape);
    if (cells) steps.push_back(launch("limit", a, blocks_for(cells)));
}

}  // namespace

const Op& limit() {
    static const Op op = {
        "limit",
        {{"frame", false, 2}},
        {{"miss", kMask, -1, 1},
         {"reach", {}, miss, 1},
         {"y_low", kList, -1, 1},
         {"y_high", {}, y_low, 1},
         {"x_low", {}, y_low, 1},
         {"x_high", {}, y_low, 1}},
        {{"limited", {}, miss}},
        extents,
        check,
        nullptr,
        plan,
    };
    return op;
}

}  // namespace flux
