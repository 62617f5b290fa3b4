#include "arguments.h"
#include "table.h"

namespace flux {
namespace {

constexpr std::array<const char*, 4> kKernels = {"tile_scatter_8", "tile_scatter_16", "tile_scatter_32",
                                                 "tile_scatter_64"};

std::vector<Extents> extents(const Attributes&, const std::vector<int>& ranks) { return {shape_of(1, ranks[1])}; }

void check(const Attributes& attributes, const std::vector<Shape>& inputs) {
    const std::vector<int32_t>&dims = ints(attributes, "dims"), &size = ints(attributes, "size");
    check_dims("tile_scatter", dims, static_cast<int>(inputs[1].size()));
    check_tiles("tile_scatter", inputs[2]);
    Shape wanted = inputs[1];
    wanted[0] *= inputs[2][0];
    for (size_t axis = 0; axis < 2; ++axis) wanted[static_cast<size_t>(dims[axis])] = size[axis];
    require(size[0] > 0 && size[1] > 0 && inputs[0] == wanted, "tile_scatter: tile is ", text(inputs[0]), ", expected ",
            text(wanted));
}

void plan(const Call& call, std::vector<Step>& steps) {
    const Tensor &tile = call.inputs[0], &cache = call.inputs[1], &out = call.outputs[0];
    const std::vector<int32_t>& size = ints(call.attributes, "size");
    // TensorRT may give both the same memory (getAliasedInput).
    if (out.data != cache.data) steps.push_back(Copy{out.data, cache.data, cache.bytes()});
    if (!elements(tile.shape)) return;
    device::TileScatter a = {};
    a.tile = tile.data;
    a.out = out.data;
    a.tiles = indices(call.inputs[2]);
    a.map = map_shape(ints(call.attributes, "dims"), cache.shape);
    a.size_y = size[0], a.size_x = size[1];
    const int64_t packed_count = tile.shape[0], inside = elements(tile.shape) / packed_count;
    steps.push_back(launch(by_bits(kKernels, cache.type), a, packed_count, blocks_for(inside)));
}

}  // namespace

const Op& tile_scatter() {
    static const Op op = {
        "tile_scatter",
        {{"dims", false, 2}, {"size", false, 2}},
        {{"tile", kMoved}, {"cache", {}, 0}, {"tiles", kList, -1, 2}},
        {{"map", {}, 0}},
        extents,
        check,
        nullptr,
        plan,
        1,
    };
    return op;
}

}  // namespace flux
