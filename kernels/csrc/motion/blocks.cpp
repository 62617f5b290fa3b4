// fluxcompile.kernels._cpu.block_*: blocks of pixels of a frame, every argument checked.
#include "blocks.h"

#include "../arguments.h"

namespace flux {
namespace {

struct Size {
    int height, width, channels, block;
    int down() const { return (height + block - 1) / block; }
    int across() const { return (width + block - 1) / block; }
};

template <class A>
void require_dense(const char* op, const char* what, const A& a, std::initializer_list<int> shape) {
    require(a.ndim() == shape.size(), op, ": ", what, " has ", a.ndim(), " dimensions, it must have ", shape.size());
    int64_t dense = 1;
    for (size_t i = shape.size(); i-- > 0;) {
        const int want = shape.begin()[i];
        require(static_cast<int64_t>(a.shape(i)) == want, op, ": ", what, " has size ", a.shape(i), " in dimension ", i,
                ", it must be ", want);
        require(want == 1 || a.size() == 0 || a.stride(i) == dense, op, ": ", what, " must be dense");
        dense *= want;
    }
}

template <class A>
void require_frame(const char* op, const A& frame, bool planar, const Size& s) {
    if (planar) {
        require_dense(op, "the frame", frame, {s.channels, s.height, s.width});
    } else {
        require_dense(op, "the frame", frame, {s.height, s.width, s.channels});
    }
    if (frame.dtype() != nb::dtype<uint8_t>()) data_of<float>(op, "the frame, if not of bytes,", frame);
}

Size size_of(const char* op, int64_t height, int64_t width, int64_t channels, int block) {
    require(block >= 1 && block <= 256, op, ": blocks of ", block, " pixels, it must be 1 to 256");
    require(height >= 1 && width >= 1 && channels >= 1 && height <= 1 << 20 && width <= 1 << 20 && channels <= 1 << 20,
            op, ": a frame of ", height, " x ", width, " x ", channels);
    return {static_cast<int>(height), static_cast<int>(width), static_cast<int>(channels), block};
}

template <class A>
Size size_of_frame(const char* op, const A& frame, bool planar, int block) {
    require(frame.ndim() == 3, op, ": the frame has ", frame.ndim(), " dimensions, it must have 3");
    const auto n = [&](size_t i) { return static_cast<int64_t>(frame.shape(i)); };
    const Size s = planar ? size_of(op, n(1), n(2), n(0), block) : size_of(op, n(0), n(1), n(2), block);
    require_frame(op, frame, planar, s);
    return s;
}

template <class A>
float* floats_of(const char* op, const char* what, const A& a, const Size& s) {
    require_dense(op, what, a, {s.down(), s.across()});
    return const_cast<float*>(data_of<float>(op, what, a));
}

template <class A, class F>
void by_type(const A& frame, const F& run) {
    if (frame.dtype() == nb::dtype<uint8_t>()) {
        run(static_cast<const uint8_t*>(frame.data()));
    } else {
        run(static_cast<const float*>(frame.data()));
    }
}

// frame: uint8 or float32, (height, width, channels) or, planar, (channels, height, width); reference: float32 or as the
// frame, (height, width, channels); out: (blocks_y, blocks_x).
void residual(const std::string& variant, const Array& frame, bool planar, const Array& reference, int block,
              const Array& gain, const Array& bias, const Result& out) {
    const char* op = "block_residual";
    const Kernels& kernels = find_variant(variant);
    require(reference.ndim() == 3, op, ": the reference has ", reference.ndim(), " dimensions, it must have 3");
    const auto n = [&](size_t i) { return static_cast<int64_t>(reference.shape(i)); };
    const Size s = size_of(op, n(0), n(1), n(2), block);
    require_dense(op, "the reference", reference, {s.height, s.width, s.channels});
    require_frame(op, frame, planar, s);
    const float *gains = vector_of<float>(op, "gain", gain, s.channels),
                *biases = vector_of<float>(op, "bias", bias, s.channels);
    float* to = floats_of(op, "out", out, s);
    const bool bytes = reference.dtype() == nb::dtype<uint8_t>();
    require(!bytes || frame.dtype() == nb::dtype<uint8_t>(), op, ": a reference of bytes is for a frame of bytes");
    const auto* bytes_at = bytes ? static_cast<const uint8_t*>(reference.data()) : nullptr;
    const auto* floats_at = bytes ? nullptr : data_of<float>(op, "the reference, if not of bytes,", reference);
    nb::gil_scoped_release unlocked;
    by_type(frame, [&](const auto* from) {
        const auto against = [&](const auto* then) {
            block_residual(kernels, from, planar, then, s.height, s.width, s.channels, block, gains, biases, to);
        };
        if constexpr (sizeof(*from) == 1) {
            if (bytes) return against(bytes_at);
        }
        against(floats_at);
    });
}

void gradient(const Array& frame, bool planar, int block, const Array& residuals, float least, const Result& out) {
    const char* op = "block_gradient";
    const Size s = size_of_frame(op, frame, planar, block);
    const float* known = floats_of(op, "the residual", residuals, s);
    float* to = floats_of(op, "out", out, s);
    nb::gil_scoped_release unlocked;
    by_type(frame, [&](const auto* from) {
        block_gradient(from, planar, s.height, s.width, s.channels, block, known, least, to);
    });
}

void paint(const Array& levels, int block, const std::vector<int>& radii, const Result& miss, const Result& bound) {
    const char* op = "paint_blocks";
    require(miss.ndim() == 2, op, ": miss has ", miss.ndim(), " dimensions, it must have 2");
    const Size s = size_of(op, static_cast<int64_t>(miss.shape(0)), static_cast<int64_t>(miss.shape(1)), 1, block);
    require_dense(op, "miss", miss, {s.height, s.width});
    require_dense(op, "bound", bound, {s.height, s.width});
    require_dense(op, "levels", levels, {s.down(), s.across()});
    const auto* from = data_of<uint8_t>(op, "levels", levels);
    for (const int radius : radii) require(radius >= 0 && radius <= 1 << 24, op, ": a radius is ", radius);
    const uint8_t most = *std::max_element(from, from + s.down() * s.across());
    require(most <= radii.size(), op, ": a level is ", static_cast<int>(most), ", there are ", radii.size(), " radii");
    auto* to = const_cast<uint8_t*>(data_of<uint8_t>(op, "miss", miss));
    auto* near = const_cast<uint8_t*>(data_of<uint8_t>(op, "bound", bound));
    nb::gil_scoped_release unlocked;
    paint_blocks(from, s.height, s.width, block, radii.data(), to, near);
}

void expose(const Result& frame, bool planar, int block, const Array& blocks, const Array& gain, const Array& bias) {
    const char* op = "expose_blocks";
    const Size s = size_of_frame(op, frame, planar, block);
    require_dense(op, "blocks", blocks, {s.down(), s.across()});
    const auto* which = data_of<uint8_t>(op, "blocks", blocks);
    const float *gains = vector_of<float>(op, "gain", gain, s.channels),
                *biases = vector_of<float>(op, "bias", bias, s.channels);
    nb::gil_scoped_release unlocked;
    by_type(frame, [&](const auto* at) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(at)>>;
        expose_blocks(const_cast<T*>(at), planar, s.height, s.width, s.channels, block, which, gains, biases);
    });
}

}  // namespace

void bind_blocks(nb::module_& m) {
    using namespace nb::literals;
    m.def("block_residual", residual, "variant"_a, "frame"_a.noconvert(), "planar"_a, "reference"_a.noconvert(),
          "block"_a, "gain"_a.noconvert(), "bias"_a.noconvert(), "out"_a.noconvert());
    m.def("block_gradient", gradient, "frame"_a.noconvert(), "planar"_a, "block"_a, "residual"_a.noconvert(), "least"_a,
          "out"_a.noconvert());
    m.def("paint_blocks", paint, "levels"_a.noconvert(), "block"_a, "radii"_a, "miss"_a.noconvert(),
          "bound"_a.noconvert());
    m.def("expose_blocks", expose, "frame"_a.noconvert(), "planar"_a, "block"_a, "blocks"_a.noconvert(),
          "gain"_a.noconvert(), "bias"_a.noconvert());
}

}  // namespace flux
