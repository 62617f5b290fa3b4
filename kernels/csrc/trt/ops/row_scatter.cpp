#include "arguments.h"
#include "table.h"

namespace flux {
namespace {

constexpr std::array<const char*, 4> kKernels = {"row_scatter_8", "row_scatter_16", "row_scatter_32", "row_scatter_64"};

std::vector<Extents> extents(const Attributes&, const std::vector<int>& ranks) { return {shape_of(1, ranks[1])}; }

void check(const Attributes& attributes, const std::vector<Shape>& inputs) {
    const int32_t dim = integer(attributes, "dim");
    require(dim >= 0 && dim < static_cast<int32_t>(inputs[1].size()), "row_scatter: dim is ", dim, ", the cache is ",
            text(inputs[1]));
    Shape wanted = inputs[1];
    wanted[static_cast<size_t>(dim)] = inputs[2][0];
    require(inputs[0] == wanted, "row_scatter: row is ", text(inputs[0]), ", expected ", text(wanted));
}

void plan(const Call& call, std::vector<Step>& steps) {
    const Tensor &row = call.inputs[0], &cache = call.inputs[1], &out = call.outputs[0];
    // TensorRT may give both the same memory (getAliasedInput).
    if (out.data != cache.data) steps.push_back(Copy{out.data, cache.data, cache.bytes()});
    const int64_t count = elements(row.shape);
    if (!count) return;
    device::RowScatter a = {};
    a.row = row.data;
    a.out = out.data;
    a.rows = indices(call.inputs[2]);
    const auto dim = static_cast<size_t>(integer(call.attributes, "dim"));
    const auto first = cache.shape.begin(), at = first + static_cast<std::ptrdiff_t>(dim);
    a.outer = static_cast<int>(elements({first, at}));
    a.size = static_cast<int>(*at);
    a.inner = static_cast<int>(elements({at + 1, cache.shape.end()}));
    a.count = static_cast<int>(call.inputs[2].shape[0]);
    steps.push_back(launch(by_bits(kKernels, cache.type), a, blocks_for(count)));
}

}  // namespace

const Op& row_scatter() {
    static const Op op = {
        "row_scatter",
        {{"dim", false, 1}},
        {{"row", kMoved}, {"cache", {}, 0}, {"rows", kList, -1, 1}},
        {{"tokens", {}, 0}},
        extents,
        check,
        nullptr,
        plan,
        1,
    };
    return op;
}

}  // namespace flux
