#include "arguments.h"
#include "table.h"

namespace flux {
namespace {

constexpr std::array<const char*, 2> kCorrect = {"attention_correct_f32", "attention_correct_f16"};
constexpr std::array<const char*, 2> kAnew = {"attention_anew_f32", "attention_anew_f16"};

enum Input { q, k, v, k_old, v_old, numerator, denominator, offset, queries, keys, values, fresh };

std::vector<Extents> extents(const Attributes&, const std::vector<int>& ranks) {
    const Extents state = shape_of(numerator, ranks[numerator]), thin = shape_of(denominator, ranks[denominator]);
    return {state, state, thin, thin};
}

void check(const Attributes&, const std::vector<Shape>& inputs) {
    const int64_t heads = inputs[q][1], tokens = inputs[q][2], key_count = inputs[k][2], wide = inputs[v][3];
    const Shape key = {1, heads, key_count, inputs[q][3]}, value = {1, heads, key_count, wide};
    const Shape state = {1, heads, tokens, wide}, thin = {1, heads, tokens, 1};
    require(inputs[k] == key && inputs[k_old] == key, "correct_attention: k and k_old are ", text(inputs[k]), " and ",
            text(inputs[k_old]), ", expected ", text(key));
    require(inputs[v] == value && inputs[v_old] == value, "correct_attention: v and v_old are ", text(inputs[v]),
            " and ", text(inputs[v_old]), ", expected ", text(value));
    require(inputs[numerator] == state, "correct_attention: numerator is ", text(inputs[numerator]), ", expected ",
            text(state));
    require(inputs[denominator] == thin && inputs[offset] == thin, "correct_attention: denominator and offset are ",
            text(inputs[denominator]), " and ", text(inputs[offset]), ", expected ", text(thin));
    require(elements(inputs[fresh]) == 1, "correct_attention: fresh is ", text(inputs[fresh]), ", expected one value");
}

size_t workspace(const std::vector<Shape>& inputs) {
    return static_cast<size_t>(2 * inputs[k][2] + 1 + inputs[q][2]) * sizeof(int);
}

void plan(const Call& call, std::vector<Step>& steps) {
    const auto data = [&](Input i) { return call.inputs[i].data; };
    const auto floats = [&](Input i) { return static_cast<const float*>(call.inputs[i].data); };
    const auto count = [&](Input i) { return static_cast<int>(call.inputs[i].shape[0]); };
    const auto state = [&](size_t i) { return static_cast<float*>(call.outputs[i].data); };
    const Shape& size = call.inputs[q].shape;
    device::Attention a = {};
    a.q = data(q), a.k = data(k), a.v = data(v), a.k_old = data(k_old), a.v_old = data(v_old);
    a.numerator = floats(numerator), a.denominator = floats(denominator), a.offset = floats(offset);
    a.changed_queries = indices(call.inputs[queries]);
    a.changed_keys = indices(call.inputs[keys]);
    a.changed_values = indices(call.inputs[values]);
    a.changed_query_count = count(queries), a.changed_key_count = count(keys), a.changed_value_count = count(values);
    a.fresh = flags(call.inputs[fresh]);
    a.out = call.outputs[0].data;
    a.new_numerator = state(1), a.new_denominator = state(2), a.new_offset = state(3);
    a.heads = static_cast<int>(size[1]), a.queries = static_cast<int>(size[2]), a.channels = static_cast<int>(size[3]);
    a.keys = static_cast<int>(call.inputs[k].shape[2]);
    a.value_channels = static_cast<int>(call.inputs[v].shape[3]);
    a.scale = real(call.attributes, "scale");
    a.moved = static_cast<int*>(call.workspace);
    a.is_moved = a.moved + a.keys;
    a.moved_count = a.is_moved + a.keys;
    a.is_anew = a.moved_count + 1;

    const Type type = call.inputs[q].type;
    const int64_t rows = size[1] * size[2];
    if (!rows) return;
    steps.push_back(launch("attention_lists", a, 1, 1, slots<int>()));
    steps.push_back(launch(by_type(kCorrect, type), a, rows, 1, slots<float>(3)));
    steps.push_back(launch(by_type(kAnew, type), a, rows, 1, slots<float>(2)));
}

}  // namespace

const Op& correct_attention() {
    static const Op op = {
        "correct_attention",
        {{"scale", true, 1}},
        {{"q", kReal, -1, 4},
         {"k", {}, q, 4},
         {"v", {}, q, 4},
         {"k_old", {}, q},
         {"v_old", {}, q},
         {"numerator", {Type::f32}, -1, 4},
         {"denominator", {Type::f32}, -1, 4},
         {"offset", {Type::f32}},
         {"changed_queries", kList, -1, 1},
         {"changed_keys", kList, -1, 1},
         {"changed_values", kList, -1, 1},
         {"fresh", kMask}},
        {{"output", {}, q},
         {"next_numerator", {Type::f32}},
         {"next_denominator", {Type::f32}},
         {"next_offset", {Type::f32}}},
        extents,
        check,
        workspace,
        plan,
    };
    return op;
}

}  // namespace flux
