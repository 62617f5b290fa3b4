#include "arguments.h"
#include "table.h"

namespace flux {
namespace {

constexpr std::array<const char*, 2> kKernels = {"resample_f32", "resample_f16"};

std::vector<Extents> extents(const Attributes& attributes, const std::vector<int>&) {
    const std::vector<int32_t>& tile = ints(attributes, "tile");
    require(tile[0] > 0 && tile[1] > 0, "resample: a tile of ", tile[0], " x ", tile[1], " cells");
    return {{size_of(1, 0), size_of(0, 1), {tile[0]}, {tile[1]}}};
}

void check(const Attributes&, const std::vector<Shape>& inputs) {
    require(inputs[0][0] == 1, "resample: x is ", text(inputs[0]), ", expected (1 x c x h x w)");
    check_tiles("resample", inputs[1]);
    for (size_t axis : {2, 4}) {
        require(inputs[axis] == inputs[axis + 1], "resample: taps are ", text(inputs[axis]), ", weights ",
                text(inputs[axis + 1]), "; expected (outputs x taps) for both");
    }
}

device::ResampleAxis axis_of(const Tensor& taps, const Tensor& weights) {
    return {indices(taps), static_cast<const float*>(weights.data), static_cast<int>(taps.shape[0]),
            static_cast<int>(taps.shape[1])};
}

void plan(const Call& call, std::vector<Step>& steps) {
    const Tensor &x = call.inputs[0], &out = call.outputs[0];
    const int64_t count = elements(out.shape);
    if (!count) return;
    device::Resample a = {};
    a.x = x.data;
    a.out = out.data;
    a.tiles = indices(call.inputs[1]);
    a.y = axis_of(call.inputs[2], call.inputs[3]);
    a.x_axis = axis_of(call.inputs[4], call.inputs[5]);
    a.tile_count = static_cast<int>(out.shape[0]), a.channels = static_cast<int>(out.shape[1]);
    a.tile_y = static_cast<int>(out.shape[2]), a.tile_x = static_cast<int>(out.shape[3]);
    a.height = static_cast<int>(x.shape[2]), a.width = static_cast<int>(x.shape[3]);
    steps.push_back(launch(by_type(kKernels, x.type), a, blocks_for(count)));
}

}  // namespace

const Op& resample() {
    static const Op op = {
        "resample",
        {{"tile", false, 2}},
        {{"x", kReal, -1, 4},
         {"tiles", kList, -1, 2},
         {"taps_y", kList, -1, 2},
         {"weights_y", {Type::f32}},
         {"taps_x", kList, -1, 2},
         {"weights_x", {Type::f32}}},
        {{"resampled", {}, 0}},
        extents,
        check,
        nullptr,
        plan,
    };
    return op;
}

}  // namespace flux
