#include "rows.h"
#include "table.h"

namespace flux {
namespace {

constexpr std::array<const char*, 4> kKernels = {"motion_reindex_8", "motion_reindex_16", "motion_reindex_32",
                                                 "motion_reindex_64"};

std::vector<Extents> extents(const Attributes&, const std::vector<int>& ranks) { return {shape_of(0, ranks[0])}; }

void check(const Attributes& attributes, const std::vector<Shape>& inputs) {
    check_rows("motion_reindex", attributes, inputs[0], inputs[1]);
}

void plan(const Call& call, std::vector<Step>& steps) {
    const Tensor &cache = call.inputs[0], &out = call.outputs[0];
    const int64_t count = elements(cache.shape);
    const device::MotionReindex a = {cache.data, out.data, indices(call.inputs[1]),
                                     row_factors("motion_reindex", call.attributes), static_cast<int>(count)};
    if (count) steps.push_back(launch(by_bits(kKernels, cache.type), a, blocks_for(count)));
}

}  // namespace

const Op& motion_reindex() {
    static const Op op = {
        "motion_reindex",
        kRowFields,
        {{"cache", kMoved}, {"source", kList, -1, 1}},
        {{"moved", {}, 0}},
        extents,
        check,
        nullptr,
        plan,
        -1,
        [](const Attributes& attributes) { row_factors("motion_reindex", attributes); },
    };
    return op;
}

}  // namespace flux
