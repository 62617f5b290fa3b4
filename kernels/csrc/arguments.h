// Numpy arrays in, kernel arguments out: everything a caller passes is checked here, once. `*_of` makes the arguments of
// a kernel but for its list of rows, which a direct call (module.cpp) or a plan (plan.cpp) adds.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "trt/ops/require.h"

namespace nb = nanobind;

namespace flux {

// Of any type, so that a wrong one is refused in words (see `data_of`).
using Array = nb::ndarray<nb::ro, nb::device::cpu>;
using Result = nb::ndarray<nb::device::cpu>;
using Pair = std::pair<int, int>;

inline constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

inline const Kernels& find_variant(const std::string& name) {
    for (auto v = variants; *v; ++v) {
        if (name != (*v)->name) continue;
        require(runs_here(**v), "variant '", name, "' needs instructions that this processor lacks");
        return **v;
    }
    require(false, "there is no variant '", name, "' in this build; variants() lists them");
    return plain_kernels;
}

inline std::vector<std::string> names(bool running) {
    std::vector<std::string> found;
    for (auto v = variants; *v; ++v) {
        if (!running || runs_here(**v)) found.emplace_back((*v)->name);
    }
    return found;
}

template <class Name, size_t n>
int find_name(const char* op, const char* what, const std::array<Name, n>& names, const std::string& name) {
    for (size_t i = 0; i < n; ++i) {
        if (name == names[i]) return static_cast<int>(i);
    }
    std::string all;
    for (const char* known : names) all += (all.empty() ? "" : ", ") + std::string(known);
    require(false, op, ": ", what, " '", name, "' is not one of ", all);
    return 0;
}

inline constexpr std::array<const char*, static_cast<size_t>(Act::count)> kActs = {
    "none",      "clamp",       "leaky", "prelu",     "silu", "sigmoid", "tanh",
    "hardswish", "hardsigmoid", "gelu",  "gelu_tanh", "elu",  "mish"};
inline constexpr std::array<const char*, static_cast<size_t>(Term::count)> kTerms = {
    "act", "scale", "add", "sub", "rsub", "mul", "div", "max", "min"};
inline constexpr std::array<const char*, 3> kGates = {"none", "largest", "mean"};
inline constexpr std::array<const char*, 3> kPools = {"max", "mean", "sum"};

inline Act find_act(const char* op, const std::string& name) {
    return static_cast<Act>(find_name(op, "activation", kActs, name));
}

template <class T, class A>
const T* data_of(const char* op, const char* what, const A& a) {
    constexpr bool floats = std::is_same_v<T, float>, ints = std::is_same_v<T, int32_t>;
    require(a.dtype() == nb::dtype<T>(), op, ": ", what, " must be of type ",
            floats ? "float32"
            : ints ? "int32"
                   : "uint8");
    return static_cast<const T*>(a.data());
}

struct View {
    const float* at;
    int height, width, channels;
    ptrdiff_t step;
    int64_t rows() const { return static_cast<int64_t>(height) * width; }
};

// A map is (height, width, channels): channels dense, rows and lines evenly spaced, so that row r lies at r * step.
template <class A>
View view(const char* op, const char* what, const A& a) {
    const float* at = data_of<float>(op, what, a);
    require(a.ndim() == 3, op, ": ", what, " has ", a.ndim(), " dimensions, a map is (height, width, channels)");
    for (size_t i = 0; i < 3; ++i) {
        require(a.shape(i) >= 1 && static_cast<int64_t>(a.shape(i)) <= kMost, op, ": ", what, " has size ", a.shape(i),
                " in dimension ", i, ", it must be between 1 and 2^31 - 1");
    }
    const int64_t h = static_cast<int64_t>(a.shape(0)), w = static_cast<int64_t>(a.shape(1)),
                  c = static_cast<int64_t>(a.shape(2));
    require(h <= kMost / w, op, ": ", what, " has ", h, " x ", w, " rows, the most is 2^31 - 1");
    const int64_t line = a.stride(0), row = a.stride(1);
    require(c == 1 || a.stride(2) == 1, op, ": ", what, " has stride ", a.stride(2), " between channels, it must be 1");
    const int64_t step = w > 1 ? row : h > 1 ? line : c;
    require(step >= c && (h == 1 || line == w * step), op, ": ", what, " has strides (", line, ", ", row,
            "), a map's rows lie a fixed step of at least ", c, " floats apart, line after line");
    return {at, static_cast<int>(h), static_cast<int>(w), static_cast<int>(c), static_cast<ptrdiff_t>(step)};
}

// Reading `in` while writing `out` is safe if no float is in both: apart, or other channels of the same wider map.
inline bool apart(const View& in, const View& out) {
    const auto begin = [](const View& v) { return reinterpret_cast<uintptr_t>(v.at); };
    const auto end = [&](const View& v) {
        return begin(v) + sizeof(float) * static_cast<size_t>((v.rows() - 1) * v.step + v.channels);
    };
    if (end(in) <= begin(out) || end(out) <= begin(in)) return true;
    if (in.step != out.step) return false;
    const ptrdiff_t shift = static_cast<ptrdiff_t>(begin(out) - begin(in)) / static_cast<ptrdiff_t>(sizeof(float));
    const ptrdiff_t channel = (shift % in.step + in.step) % in.step;
    return channel >= in.channels && channel + out.channels <= in.step;
}

template <class T, class A>
const T* vector_of(const char* op, const char* what, const A& a, int64_t size) {
    require(a.ndim() == 1 && static_cast<int64_t>(a.shape(0)) == size && (size < 2 || a.stride(0) == 1), op, ": ", what,
            " must be a dense vector of ", size);
    return data_of<T>(op, what, a);
}

// Where results go, the list of rows still missing.
inline Target map_of(const View& out, const Result& map) {
    return {static_cast<float*>(map.data()), out.step, out.width, out.channels, nullptr, 0, Gate::none, 0, nullptr};
}

struct Ending {
    std::string act;
    float a, b;
    std::optional<Array> slope, residual;
    bool residual_first;
};

inline void same_map(const char* op, const char* what, const View& a, const View& out) {
    require(a.height == out.height && a.width == out.width && a.channels == out.channels, op, ": ", what, " is (",
            a.height, ", ", a.width, ", ", a.channels, "), the output map is (", out.height, ", ", out.width, ", ",
            out.channels, ")");
}

// A map read at the very rows that are written may be the output itself.
inline bool same_or_apart(const View& in, const View& out) {
    return (in.at == out.at && in.step == out.step) || apart(in, out);
}

inline Epilogue epilogue(const char* op, const View& out, const Ending& end) {
    Epilogue e = {find_act(op, end.act), end.a, end.b, nullptr, nullptr, 0, end.residual_first};
    require((e.act == Act::prelu) == end.slope.has_value(), op, ": `slope` is needed with prelu, and only then");
    if (end.slope) e.slope = vector_of<float>(op, "slope", *end.slope, out.channels);
    if (end.residual) {
        const View r = view(op, "residual", *end.residual);
        same_map(op, "residual", r, out);
        require(same_or_apart(r, out), op, ": residual overlaps the output map");
        e.residual = r.at;
        e.residual_step = r.step;
    }
    return e;
}

struct Taps {
    int count;
    const int32_t *y, *x;
};

// taps is (2, n): input cells from the window's origin, y then x.
inline Taps find_taps(const char* op, const Array& taps) {
    require(taps.ndim() == 2 && taps.shape(0) == 2 && taps.shape(1) >= 1 && taps.shape(1) <= 1 << 16, op,
            ": taps must be (2, n), n from 1 to 65536");
    const int n = static_cast<int>(taps.shape(1));
    const int32_t* at = data_of<int32_t>(op, "taps", taps);
    require(taps.stride(0) == n && (n == 1 || taps.stride(1) == 1), op, ": taps must be dense");
    for (int i = 0; i < 2 * n; ++i) {
        require(at[i] > -(1 << 24) && at[i] < 1 << 24, op, ": taps lie farther than 2^24 cells away");
    }
    return {n, at, at + n};
}

inline void check_steps(const char* op, const char* what, const Pair& steps, const View& out) {
    for (int i = 0; i < 2; ++i) {
        const int step = i ? steps.second : steps.first;
        require(step >= 1, op, ": ", what, " is (", steps.first, ", ", steps.second, "), both must be at least 1");
        const int64_t size = i ? out.width : out.height;
        require(size * step < kMost - (1 << 24), op, ": ", what, " ", step, " leads outside 2^31 cells");
    }
}

inline Conv2d conv2d_of(const Kernels& k, const Array& x, const Array& weights, const Array& bias, const Array& taps,
                        const Result& out, int groups, Pair stride, Pair up, const Ending& end) {
    const char* op = "conv2d";
    const View in = view(op, "x", x), to = view(op, "out", out);
    const Taps t = find_taps(op, taps);
    require(apart(in, to), op, ": x and out overlap");
    require(groups >= 1 && in.channels % groups == 0 && to.channels % groups == 0, op, ": ", groups,
            " groups do not divide ", in.channels, " input and ", to.channels, " output channels");
    const bool depthwise = groups > 1 && groups == in.channels && groups == to.channels;
    const int64_t per_in = in.channels / groups, per_out = to.channels / groups;
    const int64_t panels = (per_out + k.panel - 1) / k.panel;
    const int64_t padded =
        depthwise ? static_cast<int64_t>(in.channels + k.lanes - 1) / k.lanes * k.lanes : groups * panels * k.panel;
    check_steps(op, "stride", stride, to);
    check_steps(op, "up", up, to);
    Conv2d p = {};
    p.in = {in.at, in.step, in.height, in.width};
    p.out = map_of(to, out);
    p.stride_y = stride.first;
    p.stride_x = stride.second;
    p.up_y = up.first;
    p.up_x = up.second;
    p.taps = t.count;
    p.tap_y = t.y;
    p.tap_x = t.x;
    p.groups = groups;
    p.in_per_group = static_cast<int>(per_in);
    p.out_per_group = static_cast<int>(per_out);
    p.weights =
        vector_of<float>(op, "weights packed for this variant", weights, padded * t.count * (depthwise ? 1 : per_in));
    p.bias = vector_of<float>(op, "bias packed for this variant", bias, padded);
    p.end = epilogue(op, to, end);
    return p;
}

inline bool is_depthwise(const Conv2d& p) { return p.groups > 1 && p.in_per_group == 1 && p.out_per_group == 1; }

inline Pool2d pool2d_of(const Array& x, const Array& taps, const Result& out, const std::string& kind, Pair stride,
                        float divisor) {
    const char* op = "pool2d";
    const View in = view(op, "x", x), to = view(op, "out", out);
    const Taps t = find_taps(op, taps);
    require(apart(in, to), op, ": x and out overlap");
    require(in.channels == to.channels, op, ": x has ", in.channels, " channels, out has ", to.channels);
    require(divisor >= 0, op, ": divisor is ", divisor, ", it must be positive, or 0 to count the taps inside the map");
    check_steps(op, "stride", stride, to);
    Pool2d p = {};
    p.in = {in.at, in.step, in.height, in.width};
    p.out = map_of(to, out);
    p.stride_y = stride.first;
    p.stride_x = stride.second;
    p.taps = t.count;
    p.tap_y = t.y;
    p.tap_x = t.x;
    p.kind = static_cast<Pool>(find_name(op, "kind", kPools, kind));
    p.divisor = divisor;
    return p;
}

// A table of taps for one axis: index and weight (outputs, taps).
inline int axis_taps(const char* op, const char* axis, const Array& index, const Array& weight, int outputs,
                     int inputs) {
    require(index.ndim() == 2 && static_cast<int>(index.shape(0)) == outputs && index.shape(1) >= 1 &&
                index.shape(1) <= 1 << 12,
            op, ": index_", axis, " must be (", outputs, ", taps), taps from 1 to 4096");
    require(weight.ndim() == 2 && weight.shape(0) == index.shape(0) && weight.shape(1) == index.shape(1), op,
            ": weight_", axis, " must have the shape of index_", axis);
    const int32_t* at = data_of<int32_t>(op, "an index table", index);
    data_of<float>(op, "a weight table", weight);
    const int n = static_cast<int>(index.shape(1));
    for (const bool dense : {index.stride(0) == n && (n == 1 || index.stride(1) == 1),
                             weight.stride(0) == n && (n == 1 || weight.stride(1) == 1)}) {
        require(dense || outputs == 1, op, ": index_", axis, " and weight_", axis, " must be dense");
    }
    for (int64_t i = 0; i < static_cast<int64_t>(outputs) * n; ++i) {
        require(at[i] < inputs, op, ": index_", axis, " reads ", at[i], ", x has ", inputs);
    }
    return n;
}

inline Resample2d resample2d_of(const Array& x, const Array& index_y, const Array& weight_y, const Array& index_x,
                                const Array& weight_x, const Result& out) {
    const char* op = "resample2d";
    const View in = view(op, "x", x), to = view(op, "out", out);
    require(apart(in, to), op, ": x and out overlap");
    require(in.channels == to.channels, op, ": x has ", in.channels, " channels, out has ", to.channels);
    Resample2d p = {};
    p.in = {in.at, in.step, in.height, in.width};
    p.out = map_of(to, out);
    p.taps_y = axis_taps(op, "y", index_y, weight_y, to.height, in.height);
    p.taps_x = axis_taps(op, "x", index_x, weight_x, to.width, in.width);
    p.index_y = static_cast<const int32_t*>(index_y.data());
    p.index_x = static_cast<const int32_t*>(index_x.data());
    p.weight_y = static_cast<const float*>(weight_y.data());
    p.weight_x = static_cast<const float*>(weight_x.data());
    return p;
}

inline void check_row_op(const char* op, const View& in, const View& to) {
    same_map(op, "x", in, to);
    require(same_or_apart(in, to), op, ": x and out overlap without being the same map");
}

// A term is (name, a, b, other): name one of the activations or of scale, add, sub, rsub, mul, div, max, min.
inline Step find_step(const char* op, const nb::handle& term, const View& to) {
    std::string name;
    float a = 0, b = 0;
    std::optional<Array> other;
    try {
        std::tie(name, a, b, other) = nb::cast<std::tuple<std::string, float, float, std::optional<Array>>>(term);
    } catch (const nb::cast_error&) {
        require(false, op, ": a term must be (name, a, b, other array or None)");
    }
    Step s = {Term::act, Act::none, a, b, nullptr, 0, false};
    const auto known = std::find_if(kActs.begin(), kActs.end(), [&](const char* n) { return name == n; });
    if (known != kActs.end()) {
        s.act = static_cast<Act>(known - kActs.begin());
    } else {
        s.term = static_cast<Term>(find_name(op, "term", kTerms, name));
        require(s.term != Term::act, op, ": name the activation itself as the term");
    }
    const bool reads = s.term == Term::act ? s.act == Act::prelu : s.term != Term::scale;
    require(reads == other.has_value(), op, ": term '", name, "' ",
            reads ? "needs another operand" : "takes no operand");
    if (!reads) return s;
    s.other = data_of<float>(op, "an operand", *other);
    if (other->ndim() == 1) {
        vector_of<float>(op, "an operand", *other, to.channels);
        return s;
    }
    require(s.term != Term::act, op, ": prelu's slope is a vector");
    const View o = view(op, "an operand", *other);
    s.single = o.channels == 1 && to.channels != 1;
    require(o.height == to.height && o.width == to.width && (s.single || o.channels == to.channels), op,
            ": an operand is (", o.height, ", ", o.width, ", ", o.channels, "), the output map is (", to.height, ", ",
            to.width, ", ", to.channels, "); it may have one channel, or be a vector of the channels");
    require(s.single ? apart(o, to) : same_or_apart(o, to), op, ": an operand overlaps the output map");
    s.step = o.step;
    return s;
}

// `steps` is where the terms are kept; it must live as long as the result.
inline Pointwise pointwise_of(const Array& x, const nb::list& terms, const Result& out, std::vector<Step>& steps) {
    const char* op = "pointwise";
    const View in = view(op, "x", x), to = view(op, "out", out);
    check_row_op(op, in, to);
    for (const nb::handle& term : terms) steps.push_back(find_step(op, term, to));
    Pointwise p = {};
    p.in = {in.at, in.step, in.height, in.width};
    p.out = map_of(to, out);
    p.steps = steps.data();
    p.count = static_cast<int>(steps.size());
    return p;
}

inline LayerNorm layer_norm_of(const Array& x, const std::optional<Array>& gamma, const std::optional<Array>& beta,
                               float epsilon, const Result& out) {
    const char* op = "layer_norm";
    const View in = view(op, "x", x), to = view(op, "out", out);
    check_row_op(op, in, to);
    require(epsilon >= 0, op, ": epsilon is ", epsilon, ", it must be at least 0");
    LayerNorm p = {};
    p.in = {in.at, in.step, in.height, in.width};
    p.out = map_of(to, out);
    p.gamma = gamma ? vector_of<float>(op, "gamma", *gamma, to.channels) : nullptr;
    p.beta = beta ? vector_of<float>(op, "beta", *beta, to.channels) : nullptr;
    p.epsilon = epsilon;
    return p;
}

inline Softmax softmax_of(const Array& x, float scale, const Result& out) {
    const char* op = "softmax";
    const View in = view(op, "x", x), to = view(op, "out", out);
    check_row_op(op, in, to);
    Softmax p = {};
    p.in = {in.at, in.step, in.height, in.width};
    p.out = map_of(to, out);
    p.scale = scale;
    return p;
}

// Each in 0 .. most, with its place named if not.
inline const int32_t* indices(const char* op, const char* what, const Array& a, int64_t size, int64_t most) {
    const int32_t* at = vector_of<int32_t>(op, what, a, size);
    for (int64_t i = 0; i < size; ++i) {
        require(at[i] >= 0 && at[i] < most, op, ": ", what, "[", i, "] is ", at[i], ", it must be in 0 .. ", most - 1);
    }
    return at;
}

inline Attention attention_of(const char* op, const Array& q, const Array& k, const Array& v, const Result& out,
                              int heads, float scale, const Array& keys, const std::optional<Array>& group_of,
                              const std::optional<Array>& member_of, const std::optional<Array>& bias) {
    const View from = view(op, "q", q), key = view(op, "k", k), value = view(op, "v", v), to = view(op, "out", out);
    require(apart(from, to) && apart(key, to) && apart(value, to), op, ": out overlaps q, k or v");
    require(from.height == to.height && from.width == to.width, op, ": q has ", from.height, " x ", from.width,
            " rows, the output map has ", to.height, " x ", to.width);
    require(key.rows() == value.rows(), op, ": k has ", key.rows(), " rows, v has ", value.rows());
    require(key.channels == from.channels, op, ": k has ", key.channels, " channels, q has ", from.channels);
    require(value.channels == to.channels, op, ": v has ", value.channels, " channels, out has ", to.channels);
    require(heads >= 1 && from.channels % heads == 0 && to.channels % heads == 0, op, ": ", heads,
            " heads do not divide ", from.channels, " channels of q and ", to.channels, " of v");
    require(keys.ndim() == 2 && keys.shape(0) >= 1 && keys.shape(1) >= 1 &&
                static_cast<int64_t>(keys.shape(0)) <= kMost / static_cast<int64_t>(keys.shape(1)),
            op, ": keys must be (groups, members), at least one of each");
    const int64_t groups = static_cast<int64_t>(keys.shape(0)), members = static_cast<int64_t>(keys.shape(1));
    require((groups == 1 || keys.stride(0) == members) && (members == 1 || keys.stride(1) == 1), op,
            ": keys must be dense");
    Attention p = {};
    p.q = {from.at, from.step, from.height, from.width};
    p.k = {key.at, key.step, key.height, key.width};
    p.v = {value.at, value.step, value.height, value.width};
    p.out = map_of(to, out);
    p.heads = heads;
    p.dim = from.channels / heads;
    p.value_dim = to.channels / heads;
    p.scale = scale;
    p.members = static_cast<int>(members);
    p.keys = data_of<int32_t>(op, "keys", keys);
    for (int64_t i = 0; i < groups * members; ++i) {
        require(p.keys[i] >= 0 && p.keys[i] < key.rows(), op, ": keys[", i / members, ", ", i % members, "] is ",
                p.keys[i], ", k has ", key.rows(), " rows");
    }
    if (group_of) p.group_of = indices(op, "group_of", *group_of, to.rows(), groups);
    const int64_t rows = bias && bias->ndim() == 4 ? static_cast<int64_t>(bias->shape(2)) : kMost;
    if (member_of) p.member_of = indices(op, "member_of", *member_of, to.rows(), rows);
    if (bias) {
        require(bias->ndim() == 4, op, ": bias must be (groups or 1, heads or 1, members of a group, keys)");
        const int64_t shape[] = {static_cast<int64_t>(bias->shape(0)), static_cast<int64_t>(bias->shape(1)), rows,
                                 static_cast<int64_t>(bias->shape(3))};
        require((shape[0] == 1 || shape[0] == groups) && (shape[1] == 1 || shape[1] == heads) && shape[3] == members,
                op, ": bias is (", shape[0], ", ", shape[1], ", ", shape[2], ", ", shape[3], "), it must be (", groups,
                " or 1, ", heads, " or 1, members of a group, ", members, ")");
        require(member_of || rows >= to.rows(), op, ": bias has ", rows, " members, the output map has ", to.rows(),
                " rows; `member_of` says which are whose");
        int64_t dense = 1;
        for (size_t i = 4; i-- > 0; dense *= shape[i]) {
            require(shape[i] == 1 || bias->stride(i) == dense, op, ": bias must be dense");
        }
        p.bias = data_of<float>(op, "bias", *bias);
        p.bias_head = shape[1] > 1 ? static_cast<ptrdiff_t>(rows * members) : 0;
        p.bias_group = shape[0] > 1 ? static_cast<ptrdiff_t>(shape[1] * rows * members) : 0;
    }
    return p;
}

// Sums a row and head keep (see kSums), channels of a map like the output.
inline float* sums_of(const char* op, const Attention& p, const Result& sums) {
    const View at = view(op, "sums", sums);
    require(
        at.height == p.q.height && at.width == p.q.width && at.channels == p.heads * kSums && at.step == at.channels,
        op, ": sums must be dense, (", p.q.height, ", ", p.q.width, ", ", p.heads * kSums, ")");
    return static_cast<float*>(sums.data());
}

// A map of rows like another's, apart from the rows it was copied from.
template <class A>
Map old_of(const char* op, const char* what, const A& old, const View& now) {
    const View at = view(op, what, old);
    same_map(op, what, at, now);
    require(apart(at, now), op, ": ", what, " overlaps the map it is a copy of");
    return {at.at, at.step, at.height, at.width};
}

// Attention of one group without bias; `changed` lists the rows of k and v that changed.
template <class A>
Correction correction_of(const Array& q, const Array& k, const Array& v, const A& k_old, const A& v_old,
                         const Result& mean, const Result& sums, int heads, float scale, const Array& changed) {
    const char* op = "correct_attention";
    Correction c = {};
    c.now = attention_of(op, q, k, v, mean, heads, scale, changed, std::nullopt, std::nullopt, std::nullopt);
    require(changed.shape(0) == 1, op, ": the changed keys are one group, not ", changed.shape(0));
    c.k_old = old_of(op, "k_old", k_old, view(op, "k", k));
    c.v_old = old_of(op, "v_old", v_old, view(op, "v", v));
    c.now.sums = sums_of(op, c.now, sums);
    return c;
}

inline size_t scratch_of(const Conv2d& p) {
    return conv2d_scratch(static_cast<size_t>(p.taps), static_cast<size_t>(p.out.channels));
}
inline size_t scratch_of(const Pool2d& p) {
    return taps_scratch(static_cast<size_t>(p.taps), static_cast<size_t>(p.out.channels));
}
inline size_t scratch_of(const Resample2d& p) {
    return taps_scratch(static_cast<size_t>(p.taps_y) * static_cast<size_t>(p.taps_x),
                        static_cast<size_t>(p.out.channels));
}
inline size_t scratch_of(const Attention& p) {
    return attention_scratch(static_cast<size_t>(p.members), static_cast<size_t>(p.heads), static_cast<size_t>(p.dim),
                             static_cast<size_t>(p.value_dim), static_cast<size_t>(p.out.channels));
}
inline size_t scratch_of(const Correction& c) {
    return attention_scratch(2 * static_cast<size_t>(c.now.members), static_cast<size_t>(c.now.heads),
                             static_cast<size_t>(c.now.dim), static_cast<size_t>(c.now.value_dim),
                             static_cast<size_t>(c.now.out.channels));
}
template <class RowOp>  // pointwise, layer norm, softmax
size_t scratch_of(const RowOp& p) {
    return rows_scratch(static_cast<size_t>(p.out.channels));
}

}  // namespace flux
