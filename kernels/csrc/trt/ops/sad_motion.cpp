#include "arguments.h"
#include "table.h"

namespace flux {
namespace {

std::vector<Extents> extents(const Attributes&, const std::vector<int>&) {
    const Extent blocks_y = {1, {{0, 0}}, device::kMotionPixels}, blocks_x = {1, {{0, 1}}, device::kMotionPixels};
    return {{{2}, blocks_y, blocks_x}, {blocks_y, blocks_x}, {blocks_y, blocks_x}};
}

void check(const Attributes& attributes, const std::vector<Shape>& inputs) {
    require(inputs[0] == inputs[1], "sad_motion: frame is ", text(inputs[0]), ", reference ", text(inputs[1]),
            "; expected (height x width) for both");
    require(inputs[2] == Shape{2}, "sad_motion: centre is ", text(inputs[2]), ", expected (dy, dx)");
    const int32_t radius = integer(attributes, "radius");
    require(radius >= 0 && radius <= 256, "sad_motion: radius is ", radius, ", it must be 0 to 256");
}

void plan(const Call& call, std::vector<Step>& steps) {
    const Tensor &frame = call.inputs[0], &sad = call.outputs[1];
    const auto to = [&](size_t i) { return static_cast<int*>(call.outputs[i].data); };
    device::SadMotion a = {};
    a.frame = frame.data;
    a.reference = call.inputs[1].data;
    a.centre = static_cast<const int*>(call.inputs[2].data);
    a.vectors = to(0), a.sad = to(1), a.still = to(2);
    a.height = static_cast<int>(frame.shape[0]), a.width = static_cast<int>(frame.shape[1]);
    a.blocks_y = static_cast<int>(sad.shape[0]), a.blocks_x = static_cast<int>(sad.shape[1]);
    a.radius = integer(call.attributes, "radius");
    const size_t pixels = device::kMotionPixels * device::kMotionPixels * sizeof(int);
    const char* kernel = frame.type == Type::u8 ? "sad_motion_u8" : "sad_motion_f32";
    if (elements(sad.shape)) steps.push_back(launch(kernel, a, elements(sad.shape), 1, slots<int>(3) + pixels));
}

}  // namespace

const Op& sad_motion() {
    static const Op op = {
        "sad_motion",
        {{"radius", false, 1}},
        {{"frame", {Type::f32, Type::u8}, -1, 2}, {"reference", {}, 0}, {"centre", {Type::i32}, -1, 1}},
        {{"vectors", {Type::i32}}, {"sad", {Type::i32}}, {"still", {Type::i32}}},
        extents,
        check,
        nullptr,
        plan,
    };
    return op;
}

}  // namespace flux
