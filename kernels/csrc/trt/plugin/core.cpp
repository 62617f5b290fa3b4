#include "core.h"

#include <algorithm>
#include <cstdio>

#include "attributes.h"

namespace flux {
namespace plugin {

using nvinfer1::DataType;
using nvinfer1::DimensionOperation;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::IDimensionExpr;
using nvinfer1::IExprBuilder;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

namespace {

// Those of a plugin's tensors: neither version has bool or uint8 for them.
constexpr std::pair<DataType, Type> kTypes[] = {{DataType::kFLOAT, Type::f32},
                                                {DataType::kHALF, Type::f16},
#if NV_TENSORRT_MAJOR >= 10
                                                {DataType::kINT64, Type::i64},
#endif
                                                {DataType::kINT32, Type::i32}};

PluginFieldType field_type(bool is_real) { return is_real ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32; }

// TensorRT's own fields, of every node.
bool is_ours(const PluginField& field) {
    const std::string name = field.name ? field.name : "";
    return name != "plugin_version" && name != "plugin_namespace";
}

template <class T>
std::vector<T> values_of(const PluginField& field) {
    require(field.length >= 0 && (field.length == 0 || field.data), "field '", field.name, "' has no data");
    const T* first = static_cast<const T*>(field.data);
    return {first, first + field.length};
}

Attributes attributes_of(const PluginFieldCollection* fields) {
    require(fields && fields->nbFields >= 0 && (fields->nbFields == 0 || fields->fields), "no fields");
    Attributes found;
    for (int32_t i = 0; i < fields->nbFields; ++i) {
        const PluginField& field = fields->fields[i];
        if (!is_ours(field)) continue;
        require(field.name, "a field has no name");
        require(field.type == PluginFieldType::kINT32 || field.type == PluginFieldType::kFLOAT32, "field '", field.name,
                "' is neither of int32 nor of float32");
        if (field.type == PluginFieldType::kINT32) {
            found[field.name] = values_of<int32_t>(field);
        } else {
            found[field.name] = values_of<float>(field);
        }
    }
    return found;
}

const IDimensionExpr* expression(const Extent& extent, const DimsExprs* inputs, IExprBuilder& builder) {
    const IDimensionExpr* found = nullptr;
    const auto combine = [&](DimensionOperation operation, const IDimensionExpr* with) {
        found = found ? builder.operation(operation, *found, *with) : with;
    };
    for (const auto& [input, d] : extent.sizes) combine(DimensionOperation::kPROD, inputs[input].d[d]);
    if (!found || extent.factor != 1) combine(DimensionOperation::kPROD, builder.constant(extent.factor));
    if (extent.divisor != 1) combine(DimensionOperation::kCEIL_DIV, builder.constant(extent.divisor));
    return found;
}

}  // namespace

std::optional<Type> type_of(DataType type) {
    for (const auto& [theirs, ours] : kTypes) {
        if (theirs == type) return ours;
    }
    return std::nullopt;
}

DataType data_type_of(Type type) {
    for (const auto& [theirs, ours] : kTypes) {
        if (ours == type) return theirs;
    }
    throw std::invalid_argument(std::string("a plugin has no tensors of ") + info(type).name);
}

void log_error(const char* op, const char* what) noexcept {
    nvinfer1::ILogger* logger = getLogger();
    if (!logger) return;
    char line[512];  // on the stack: there may be no memory left
    std::snprintf(line, sizeof line, "flux::%s: %s", op, what);
    logger->log(nvinfer1::ILogger::Severity::kERROR, line);
}

Shape shape_of(const Dims& dims) {
    require(dims.nbDims >= 0 && dims.nbDims <= Dims::MAX_DIMS, "a tensor of ", dims.nbDims, " dimensions");
    return {dims.d, dims.d + dims.nbDims};
}

FieldNames::FieldNames(const Op& op) {
    for (const Field& field : op.fields) {
        fields_.emplace_back(field.name, nullptr, field_type(field.is_real), std::max(field.count, 0));
    }
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

Core::Core(const Op& op, const PluginFieldCollection* fields) : Core(op, attributes_of(fields)) {}

Core::Core(const Op& op, const void* data, size_t bytes) : Core(op, deserialized(data, bytes)) {}

Core::Core(const Op& op, Attributes attributes) : op_(op), attributes_(std::move(attributes)) {
    check_attributes(op_, attributes_);
    serialized_ = flux::plugin::serialized(attributes_);
    for (const auto& [name, values] : attributes_) {
        const bool is_real = std::holds_alternative<std::vector<float>>(values);
        std::visit(
            [&, &field = name](const auto& list) {
                fields_.emplace_back(field.c_str(), list.data(), field_type(is_real),
                                     static_cast<int32_t>(list.size()));
            },
            values);
    }
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

DataType Core::output_type(int32_t output, const DataType* inputs, int32_t count) const {
    require(output >= 0 && output < output_count(), "there is no output ", output);
    const Port& port = op_.outputs[static_cast<size_t>(output)];
    require(port.like < count, "output ", output, " has the type of input ", port.like, " of ", count);
    return port.like >= 0 ? inputs[port.like] : data_type_of(port.types[0]);
}

std::vector<DimsExprs> Core::output_dims(const DimsExprs* inputs, int32_t count, IExprBuilder& builder) const {
    std::vector<int> ranks;
    for (int32_t i = 0; i < count; ++i) ranks.push_back(inputs[i].nbDims);
    check_ranks(op_, ranks);
    std::vector<DimsExprs> found;
    for (const Extents& output : op_.extents(attributes_, ranks)) {
        DimsExprs dims = {static_cast<int32_t>(output.size()), {}};
        for (size_t d = 0; d < output.size(); ++d) dims.d[d] = expression(output[d], inputs, builder);
        found.push_back(dims);
    }
    return found;
}

void Core::check(const PluginTensorDesc* inputs, int32_t count) const {
    std::vector<Shape> shapes;
    for (int32_t i = 0; i < count; ++i) {
        shapes.push_back(shape_of(inputs[i].dims));
        if (std::any_of(shapes.back().begin(), shapes.back().end(), [](int64_t size) { return size < 0; })) return;
    }
    output_shapes(op_, attributes_, shapes);
}

void Core::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs, const void* const* inputs,
                   void* const* outputs, void* workspace, cudaStream_t stream) const {
    std::vector<Tensor> from, to;
    const auto add = [](std::vector<Tensor>& list, const PluginTensorDesc& desc, void* data) {
        const std::optional<Type> type = type_of(desc.type);
        require(type.has_value(), "a tensor of TensorRT's type ", static_cast<int32_t>(desc.type));
        list.push_back({*type, shape_of(desc.dims), data});
    };
    for (size_t i = 0; i < op_.inputs.size(); ++i) add(from, input_descs[i], const_cast<void*>(inputs[i]));
    for (size_t i = 0; i < op_.outputs.size(); ++i) add(to, output_descs[i], outputs[i]);
    run(steps(op_, {attributes_, from, to, workspace}), stream);
}

}  // namespace plugin
}  // namespace flux
