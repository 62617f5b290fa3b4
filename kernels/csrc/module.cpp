// fluxcompile.kernels._cpu: numpy arrays in, results in place. Every argument is checked (arguments.h), then the GIL is
// released.
#include <chrono>
#include <new>

#include "arguments.h"

namespace flux {

void bind_plan(nb::module_& m);
void bind_motion(nb::module_& m);
void bind_blocks(nb::module_& m);

#if defined(FLUX_SANITIZE)
void bind_broken(nb::module_& m);
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

namespace {

// Memory that a kernel may use while it runs; grown, never given back, one a thread. A sanitizer sees its true size.
void* scratch(size_t bytes) {
    struct Free {
        void operator()(char* p) const { ::operator delete(p, std::align_val_t(64)); }
    };
    thread_local std::unique_ptr<char, Free> memory;
    thread_local size_t held = 0;
    if (held < bytes || (kSanitized && held != bytes)) {
        memory.reset(static_cast<char*>(::operator new(bytes, std::align_val_t(64))));
        held = bytes;
    }
    return memory.get();
}

const float* zeros(size_t n) {
    thread_local std::vector<float> memory;
    if (memory.size() < n) memory.assign(n, 0.f);
    return memory.data();
}

struct Gating {
    std::string gate;
    float bound;
    std::optional<Result> changed;
};

// Gives a target its list of rows and its gate.
void list_rows(const char* op, Target& to, const View& out, const Array& cells, const Gating& gating) {
    require(cells.ndim() == 1 && cells.shape(0) <= static_cast<size_t>(kMost), op, ": cells must be a vector");
    const int32_t* list = vector_of<int32_t>(op, "cells", cells, static_cast<int64_t>(cells.shape(0)));
    const int32_t *end = list + cells.shape(0), *bad = end;
    uint32_t far = 0;  // first without a branch: the list may have an entry for every row of the map
    for (const int32_t* cell = list; cell < end; ++cell) far = std::max(far, static_cast<uint32_t>(*cell));
    if (far >= out.rows()) bad = std::find_if(list, end, [&](int32_t cell) { return cell < 0 || cell >= out.rows(); });
    require(bad == end, op, ": cells[", bad - list, "] is ", bad == end ? 0 : *bad, ", the output map has ", out.height,
            " x ", out.width, " rows");
    to.gate = static_cast<Gate>(find_name(op, "gate", kGates, gating.gate));
    require(gating.bound >= 0, op, ": bound is ", gating.bound, ", a gate's bound is at least 0");
    require((to.gate != Gate::none) == gating.changed.has_value(), op,
            ": `changed` is needed with a gate, and only then");
    to.cells = list;
    to.count = static_cast<int>(cells.shape(0));
    to.bound = gating.bound;
    if (gating.changed) {
        vector_of<uint8_t>(op, "changed", *gating.changed, to.count);
        to.changed = static_cast<uint8_t*>(gating.changed->data());
    }
}

// Runs a kernel on a list of rows.
template <class P>
void run(const char* op, P p, void (*kernel)(const P&), const Result& out, const Array& cells, const Gating& gating) {
    list_rows(op, p.out, view(op, "out", out), cells, gating);
    p.scratch = scratch(scratch_of(p));
    nb::gil_scoped_release unlocked;
    kernel(p);
}

void conv2d(const std::string& variant, const Array& x, const Array& weights, const Array& bias, const Array& taps,
            const Result& out, const Array& cells, int groups, Pair stride, Pair up, const std::string& act, float a,
            float b, const std::optional<Array>& slope, const std::optional<Array>& residual, bool residual_first,
            const std::string& gate, float bound, const std::optional<Result>& changed) {
    const Kernels& k = find_variant(variant);
    Conv2d p =
        conv2d_of(k, x, weights, bias, taps, out, groups, stride, up, {act, a, b, slope, residual, residual_first});
    p.zero = zeros(static_cast<size_t>(p.groups) * static_cast<size_t>(p.in_per_group));
    run("conv2d", p, is_depthwise(p) ? k.cached_depthwise2d : k.cached_conv2d, out, cells, {gate, bound, changed});
}

void pool2d(const std::string& variant, const Array& x, const Array& taps, const Result& out, const Array& cells,
            const std::string& kind, Pair stride, float divisor, const std::string& gate, float bound,
            const std::optional<Result>& changed) {
    const Kernels& k = find_variant(variant);
    run("pool2d", pool2d_of(x, taps, out, kind, stride, divisor), k.cached_pool2d, out, cells, {gate, bound, changed});
}

void resample2d(const std::string& variant, const Array& x, const Array& index_y, const Array& weight_y,
                const Array& index_x, const Array& weight_x, const Result& out, const Array& cells,
                const std::string& gate, float bound, const std::optional<Result>& changed) {
    const Kernels& k = find_variant(variant);
    run("resample2d", resample2d_of(x, index_y, weight_y, index_x, weight_x, out), k.cached_resample2d, out, cells,
        {gate, bound, changed});
}

void pointwise(const std::string& variant, const Array& x, const nb::list& terms, const Result& out, const Array& cells,
               const std::string& gate, float bound, const std::optional<Result>& changed) {
    const Kernels& k = find_variant(variant);
    std::vector<Step> steps;
    run("pointwise", pointwise_of(x, terms, out, steps), k.cached_pointwise, out, cells, {gate, bound, changed});
}

void layer_norm(const std::string& variant, const Array& x, const std::optional<Array>& gamma,
                const std::optional<Array>& beta, float epsilon, const Result& out, const Array& cells,
                const std::string& gate, float bound, const std::optional<Result>& changed) {
    const Kernels& k = find_variant(variant);
    run("layer_norm", layer_norm_of(x, gamma, beta, epsilon, out), k.cached_layer_norm, out, cells,
        {gate, bound, changed});
}

void softmax(const std::string& variant, const Array& x, float scale, const Result& out, const Array& cells,
             const std::string& gate, float bound, const std::optional<Result>& changed) {
    const Kernels& k = find_variant(variant);
    run("softmax", softmax_of(x, scale, out), k.cached_softmax, out, cells, {gate, bound, changed});
}

void attention(const std::string& variant, const Array& q, const Array& k, const Array& v, const Result& out,
               const Array& cells, int heads, float scale, const Array& keys, const std::optional<Array>& group_of,
               const std::optional<Array>& member_of, const std::optional<Array>& bias, const std::string& gate,
               float bound, const std::optional<Result>& changed, const std::optional<Result>& sums) {
    const char* op = "attention";
    const Kernels& kernels = find_variant(variant);
    Attention p = attention_of(op, q, k, v, out, heads, scale, keys, group_of, member_of, bias);
    if (sums) p.sums = sums_of(op, p, *sums);
    run(op, p, kernels.cached_attention, out, cells, {gate, bound, changed});
}

void correct_attention(const std::string& variant, const Array& q, const Array& k, const Array& v, const Array& k_old,
                       const Array& v_old, const Result& mean, const Result& sums, const Array& cells, int heads,
                       float scale, const Array& changed, const Result& poor) {
    const char* op = "correct_attention";
    const Kernels& kernels = find_variant(variant);
    Correction c = correction_of(q, k, v, k_old, v_old, mean, sums, heads, scale, changed);
    list_rows(op, c.now.out, view(op, "mean", mean), cells, {"none", 0, std::nullopt});
    vector_of<uint8_t>(op, "poor", poor, c.now.out.count);
    c.poor = static_cast<uint8_t*>(poor.data());
    c.now.scratch = scratch(scratch_of(c));
    nb::gil_scoped_release unlocked;
    kernels.correct_attention(c);
}

double peak_gflops(const std::string& variant, double seconds) {
    require(seconds > 0 && seconds <= 10, "peak_gflops: seconds is ", seconds, ", it must be in (0, 10]");
    const Kernels& k = find_variant(variant);
    nb::gil_scoped_release unlocked;
    using Clock = std::chrono::steady_clock;
    double best = 0, spent = 0;
    while (spent < seconds) {
        const auto begin = Clock::now();
        const double work = k.peak(1 << 16);
        const double took = std::chrono::duration<double>(Clock::now() - begin).count();
        best = std::max(best, work / took * 1e-9);
        spent += took;
    }
    return best;
}

NB_MODULE(_cpu, m) {
    using namespace nb::literals;
    m.doc() = "Kernels for the active rows of NHWC maps; see fluxcompile.kernels.cpu for the front.";
    m.def("variants", [] { return names(true); }, "The variants that run here, best first; 'wide' is for tests.");
    m.def("built", [] { return names(false); }, "The variants in this build.");
    m.def(
        "panel", [](const std::string& v) { return std::pair(find_variant(v).panel, find_variant(v).lanes); },
        "variant"_a,
        "Output channels in a panel of packed weights, and the lanes that depthwise weights are padded to.");
    m.def("peak_gflops", peak_gflops, "variant"_a, "seconds"_a);
    m.def("conv2d", conv2d, "variant"_a, "x"_a.noconvert(), "weights"_a.noconvert(), "bias"_a.noconvert(),
          "taps"_a.noconvert(), "out"_a.noconvert(), "cells"_a.noconvert(), "groups"_a, "stride"_a, "up"_a, "act"_a,
          "a"_a, "b"_a, "slope"_a.noconvert().none(), "residual"_a.noconvert().none(), "residual_first"_a, "gate"_a,
          "bound"_a, "changed"_a.noconvert().none());
    m.def("pool2d", pool2d, "variant"_a, "x"_a.noconvert(), "taps"_a.noconvert(), "out"_a.noconvert(),
          "cells"_a.noconvert(), "kind"_a, "stride"_a, "divisor"_a, "gate"_a, "bound"_a,
          "changed"_a.noconvert().none());
    m.def("resample2d", resample2d, "variant"_a, "x"_a.noconvert(), "index_y"_a.noconvert(), "weight_y"_a.noconvert(),
          "index_x"_a.noconvert(), "weight_x"_a.noconvert(), "out"_a.noconvert(), "cells"_a.noconvert(), "gate"_a,
          "bound"_a, "changed"_a.noconvert().none());
    m.def("pointwise", pointwise, "variant"_a, "x"_a.noconvert(), "terms"_a, "out"_a.noconvert(), "cells"_a.noconvert(),
          "gate"_a, "bound"_a, "changed"_a.noconvert().none());
    m.def("layer_norm", layer_norm, "variant"_a, "x"_a.noconvert(), "gamma"_a.noconvert().none(),
          "beta"_a.noconvert().none(), "epsilon"_a, "out"_a.noconvert(), "cells"_a.noconvert(), "gate"_a, "bound"_a,
          "changed"_a.noconvert().none());
    m.def("softmax", softmax, "variant"_a, "x"_a.noconvert(), "scale"_a, "out"_a.noconvert(), "cells"_a.noconvert(),
          "gate"_a, "bound"_a, "changed"_a.noconvert().none());
    m.def("attention", attention, "variant"_a, "q"_a.noconvert(), "k"_a.noconvert(), "v"_a.noconvert(),
          "out"_a.noconvert(), "cells"_a.noconvert(), "heads"_a, "scale"_a, "keys"_a.noconvert(),
          "group_of"_a.noconvert().none(), "member_of"_a.noconvert().none(), "bias"_a.noconvert().none(), "gate"_a,
          "bound"_a, "changed"_a.noconvert().none(), "sums"_a.noconvert().none());
    m.def("correct_attention", correct_attention, "variant"_a, "q"_a.noconvert(), "k"_a.noconvert(), "v"_a.noconvert(),
          "k_old"_a.noconvert(), "v_old"_a.noconvert(), "mean"_a.noconvert(), "sums"_a.noconvert(),
          "cells"_a.noconvert(), "heads"_a, "scale"_a, "changed"_a.noconvert(), "poor"_a.noconvert());
    bind_plan(m);
    bind_motion(m);
    bind_blocks(m);
#if defined(FLUX_SANITIZE)
    bind_broken(m);
#endif
}

}  // namespace
}  // namespace flux
