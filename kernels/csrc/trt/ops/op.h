// An op as a device runs it: what it takes and gives, and the kernels that do it. Plain C++ without CUDA or TensorRT: the
// plugins, the torch backend and the tests on a CPU all launch what `steps` plans.
//
// Names, order and meaning are those of the op table (fluxcompile/ops.py), with three liberties: a list may be of int32
// as well as int64, a mask of int32 as well as bool, and what a list names outside the tensor is left out, so that a list
// may be filled up to a length. What does not fit throws std::invalid_argument.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "require.h"

namespace flux {

enum class Type { f32, f16, f64, i32, i64, u8, b8 };

struct TypeInfo {
    const char* name;
    size_t bytes;
};

inline const TypeInfo& info(Type type) {
    static constexpr TypeInfo kTypes[] = {{"f32", 4}, {"f16", 2}, {"f64", 8}, {"i32", 4},
                                          {"i64", 8}, {"u8", 1},  {"b8", 1}};
    return kTypes[static_cast<int>(type)];
}

using Shape = std::vector<int64_t>;

int64_t elements(const Shape& shape);
std::string text(const Shape& shape);

// A tensor in device memory, without gaps.
struct Tensor {
    Type type;
    Shape shape;
    void* data = nullptr;

    size_t bytes() const { return static_cast<size_t>(elements(shape)) * info(type).bytes; }
};

// Ints and floats by name; a bool is an int.
using Values = std::variant<std::vector<int32_t>, std::vector<float>>;
using Attributes = std::map<std::string, Values>;

const std::vector<int32_t>& ints(const Attributes& attributes, const char* name);
inline int32_t integer(const Attributes& attributes, const char* name) { return ints(attributes, name)[0]; }
float real(const Attributes& attributes, const char* name);

struct Field {
    const char* name;
    bool is_real;
    int count;  // kAny for a list
    bool optional = false;
};
inline constexpr int kAny = -1;

// An input or output. `types` are those it may have; with `like`, that of this input, whatever it is.
struct Port {
    const char* name;
    std::vector<Type> types;
    int like = -1;
    int rank = kAny;
};

// One size of an output: factor * product of sizes of inputs / divisor, rounded up.
struct Extent {
    int64_t factor = 1;
    std::vector<std::pair<int, int>> sizes = {};  // (input, dimension)
    int64_t divisor = 1;
};
using Extents = std::vector<Extent>;

inline Extent size_of(int input, int dimension) { return {1, {{input, dimension}}}; }
inline Extents shape_of(int input, int rank) {
    Extents found;
    for (int d = 0; d < rank; ++d) found.push_back(size_of(input, d));
    return found;
}

struct Copy {
    void* to;
    const void* from;
    size_t bytes;
};

inline constexpr size_t kMostArgumentBytes = 320;

struct Launch {
    const char* kernel;
    unsigned blocks_x, blocks_y;
    size_t shared_bytes;
    size_t argument_bytes;
    alignas(8) std::array<unsigned char, kMostArgumentBytes> arguments;
};

using Step = std::variant<Copy, Launch>;

struct Call {
    const Attributes& attributes;
    const std::vector<Tensor>&inputs, &outputs;
    void* workspace = nullptr;
};

struct Op {
    const char* name;
    std::vector<Field> fields;
    std::vector<Port> inputs, outputs;
    // What the sizes of the outputs are, for inputs whose ranks were checked; and what those of the inputs must be.
    std::vector<Extents> (*extents)(const Attributes& attributes, const std::vector<int>& ranks);
    void (*check)(const Attributes& attributes, const std::vector<Shape>& inputs);
    size_t (*workspace_bytes)(const std::vector<Shape>& inputs);
    void (*plan)(const Call& call, std::vector<Step>& steps);
    int in_place = -1;                                             // the input whose memory the first output may take
    void (*check_values)(const Attributes& attributes) = nullptr;  // throws where they mean nothing together
};

// Throws where a name is missing or unknown, or its values are not what the op's field says.
void check_attributes(const Op& op, const Attributes& attributes);
void check_ranks(const Op& op, const std::vector<int>& ranks);
bool accepts(const Op& op, size_t port, Type type, const std::vector<Type>& before);
std::vector<Shape> output_shapes(const Op& op, const Attributes& attributes, const std::vector<Shape>& inputs);
size_t workspace_bytes(const Op& op, const std::vector<Shape>& inputs);

// What to do in order, on one stream, to run the op on these tensors.
std::vector<Step> steps(const Op& op, const Call& call);

const std::vector<const Op*>& ops();
const Op& find_op(const std::string& name);

// --- for the ops themselves ---------------------------------------------------------------------------------------

inline constexpr int64_t kMostElements = (int64_t{1} << 31) - 1;  // kernels count in int

// A launch of blocks for so many threads; arguments are plain data.
template <class Arguments>
Launch launch(const char* kernel, const Arguments& arguments, int64_t blocks_x, int64_t blocks_y = 1,
              size_t shared_bytes = 0) {
    static_assert(sizeof(Arguments) <= kMostArgumentBytes, "Launch::arguments is too small");
    static_assert(std::is_trivially_copyable_v<Arguments>, "a driver copies arguments byte by byte");
    require(blocks_x <= kMostElements && blocks_y <= 65535, kernel, ": ", blocks_x, " x ", blocks_y,
            " blocks are more than a grid holds");
    Launch found = {
        kernel, static_cast<unsigned>(blocks_x), static_cast<unsigned>(blocks_y), shared_bytes, sizeof(Arguments), {}};
    std::memcpy(found.arguments.data(), &arguments, sizeof(Arguments));
    return found;
}

// The kernel for a type: `names` by what it is called for f32, f16; or by the bits that it moves, 8, 16, 32, 64.
inline const char* by_type(const std::array<const char*, 2>& names, Type type) { return names[type == Type::f16]; }
inline const char* by_bits(const std::array<const char*, 4>& names, Type type) {
    const size_t bytes = info(type).bytes;
    return names[bytes == 1 ? 0 : bytes == 2 ? 1 : bytes == 4 ? 2 : 3];
}

inline const std::vector<Type> kMoved = {Type::f32, Type::f16, Type::f64, Type::i32, Type::i64, Type::u8, Type::b8};
inline const std::vector<Type> kReal = {Type::f32, Type::f16};
inline const std::vector<Type> kList = {Type::i32, Type::i64};
inline const std::vector<Type> kMask = {Type::i32, Type::b8};

}  // namespace flux
