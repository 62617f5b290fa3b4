#include "rows.h"
#include "table.h"

namespace flux {
namespace {

constexpr std::array<const char*, 2> kMoments = {"gate_moments_f32", "gate_moments_f16"};
constexpr std::array<const char*, 2> kRows = {"gate_rows_f32", "gate_rows_f16"};
constexpr int64_t kMostParts = 256;  // of the map, whose moments are joined by one block

int64_t part_count(int64_t elements) { return std::min(std::max<int64_t>(blocks_for(elements), 1), kMostParts); }

std::vector<Extents> extents(const Attributes&, const std::vector<int>& ranks) { return {shape_of(2, ranks[2])}; }

void check(const Attributes& attributes, const std::vector<Shape>& inputs) {
    require(inputs[0] == inputs[1], "gate: new is ", text(inputs[0]), ", old ", text(inputs[1]));
    require(elements(inputs[3]) == 1, "gate: gate is ", text(inputs[3]), ", expected one number");
    check_rows("gate", attributes, inputs[0], inputs[2]);
}

size_t workspace(const std::vector<Shape>& inputs) {
    return static_cast<size_t>(part_count(elements(inputs[0]))) * sizeof(device::Moments) + sizeof(float);
}

void plan(const Call& call, std::vector<Step>& steps) {
    const Tensor& fresh = call.inputs[0];
    const int64_t count = elements(fresh.shape), parts = part_count(count);
    if (!count) return;
    device::Gate a = {};
    a.fresh = fresh.data;
    a.old = call.inputs[1].data;
    a.miss = flags(call.inputs[2]);
    a.gate = static_cast<const float*>(call.inputs[3].data);
    a.out = flags(call.outputs[0]);
    a.parts = static_cast<device::Moments*>(call.workspace);
    a.bound = reinterpret_cast<float*>(a.parts + parts);
    a.layout = row_factors("gate", call.attributes);
    a.elements = static_cast<int>(count);
    a.rows = static_cast<int>(call.inputs[2].shape[0]);
    a.part_count = static_cast<int>(parts);
    steps.push_back(launch(by_type(kMoments, fresh.type), a, parts, 1, slots<device::Moments>()));
    steps.push_back(launch("gate_bound", a, 1, 1, slots<device::Moments>()));
    steps.push_back(launch(by_type(kRows, fresh.type), a, blocks_for(count)));
}

}  // namespace

const Op& gate() {
    static const Op op = {
        "gate",
        kRowFields,
        {{"new", kReal}, {"old", {}, 0}, {"miss", kMask, -1, 1}, {"gate", {Type::f32}}},
        {{"changed", {}, 2}},
        extents,
        check,
        workspace,
        plan,
        -1,
        [](const Attributes& attributes) { row_factors("gate", attributes); },
    };
    return op;
}

}  // namespace flux
