#include <cmath>

#include "arguments.h"
#include "convert.h"
#include "table.h"

namespace flux {
namespace {

constexpr std::array<const char*, 4> kKernels = {"halo_gather_8", "halo_gather_16", "halo_gather_32", "halo_gather_64"};

std::vector<Extents> extents(const Attributes& attributes, const std::vector<int>& ranks) {
    const std::vector<int32_t>&dims = ints(attributes, "dims"), &extent = ints(attributes, "extent");
    check_dims("halo_gather", dims, ranks[0]);
    require(extent[0] > 0 && extent[1] > 0, "halo_gather: a tile of ", extent[0], " x ", extent[1], " cells");
    Extents packed = shape_of(0, ranks[0]);
    packed[0].sizes.push_back({1, 0});
    for (size_t axis = 0; axis < 2; ++axis) packed[static_cast<size_t>(dims[axis])] = {extent[axis]};
    return {packed};
}

void check(const Attributes&, const std::vector<Shape>& inputs) { check_tiles("halo_gather", inputs[1]); }

void plan(const Call& call, std::vector<Step>& steps) {
    const Tensor &x = call.inputs[0], &tiles = call.inputs[1], &out = call.outputs[0];
    const std::vector<int32_t>&step = ints(call.attributes, "step"), &start = ints(call.attributes, "start");
    const std::vector<int32_t>& extent = ints(call.attributes, "extent");
    if (!elements(out.shape)) return;
    device::HaloGather a = {};
    a.x = x.data;
    a.out = out.data;
    a.tiles = indices(tiles);
    a.map = map_shape(ints(call.attributes, "dims"), x.shape);
    a.step_y = step[0], a.step_x = step[1];
    a.start_y = start[0], a.start_x = start[1];
    a.extent_y = extent[0], a.extent_x = extent[1];
    a.clamp = integer(call.attributes, "clamp") != 0;
    a.fill = bits_of(real(call.attributes, "fill"), x.type);
    const int64_t packed_count = out.shape[0], inside = elements(out.shape) / packed_count;
    steps.push_back(launch(by_bits(kKernels, x.type), a, packed_count, blocks_for(inside)));
}

}  // namespace

const Op& halo_gather() {
    static const Op op = {
        "halo_gather",
        {{"dims", false, 2},
         {"step", false, 2},
         {"start", false, 2},
         {"extent", false, 2},
         {"fill", true, 1},
         {"clamp", false, 1}},
        {{"x", kMoved}, {"tiles", kList, -1, 2}},
        {{"gathered", {}, 0}},
        extents,
        check,
        nullptr,
        plan,
    };
    return op;
}

}  // namespace flux
