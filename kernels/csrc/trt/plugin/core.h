// What the plugin classes of both TensorRT versions share: an op with its attributes, seen through TensorRT's types.
#pragma once
#include <NvInferRuntime.h>

#include <optional>

#include "launch.h"

namespace flux {
namespace plugin {

inline constexpr const char* kNamespace = "flux";
inline constexpr const char* kVersion = "1";

std::optional<Type> type_of(nvinfer1::DataType type);
nvinfer1::DataType data_type_of(Type type);

// Says why on TensorRT's logger.
void log_error(const char* op, const char* what) noexcept;

// What `run` returns; `otherwise` and a line in the log where it throws, as no exception may cross the interface.
template <class F, class T>
T guarded(const char* op, T otherwise, F run) noexcept {
    try {
        return run();
    } catch (const std::exception& error) {
        log_error(op, error.what());
    } catch (...) {
        log_error(op, "unknown error");
    }
    return otherwise;
}

// The fields that a creator has, for a parser to look up in a node.
class FieldNames {
  public:
    explicit FieldNames(const Op& op);
    const nvinfer1::PluginFieldCollection* collection() const { return &collection_; }

  private:
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_;
};

class Core {
  public:
    // Throws where a field is missing, unknown or of another kind than the op's.
    Core(const Op& op, const nvinfer1::PluginFieldCollection* fields);
    // From what `serialize` wrote; throws where that is truncated, altered or of another version.
    Core(const Op& op, const void* data, size_t bytes);
    Core(const Core& other) : Core(other.op_, other.attributes_) {}
    Core& operator=(const Core&) = delete;

    const Op& op() const { return op_; }
    int32_t output_count() const { return static_cast<int32_t>(op_.outputs.size()); }
    const std::vector<unsigned char>& serialized() const { return serialized_; }
    // The attributes as fields that live as long as this.
    const nvinfer1::PluginFieldCollection* fields() const { return &collection_; }

    nvinfer1::DataType output_type(int32_t output, const nvinfer1::DataType* inputs, int32_t count) const;
    std::vector<nvinfer1::DimsExprs> output_dims(const nvinfer1::DimsExprs* inputs, int32_t count,
                                                 nvinfer1::IExprBuilder& builder) const;

    // `desc(i)` describes input or output i, of which those up to `position` are known.
    template <class Desc>
    bool supports(int32_t position, Desc desc) const {
        std::vector<Type> types;
        for (int32_t i = 0; i <= position; ++i) {
            const std::optional<Type> type = type_of(desc(i).type);
            if (!type || (i == position && desc(i).format != nvinfer1::TensorFormat::kLINEAR)) return false;
            if (i == position) return accepts(op_, static_cast<size_t>(i), *type, types);
            types.push_back(*type);
        }
        return false;
    }

    // Throws where these inputs do not fit together; sizes that are not known yet (-1) are not looked at.
    void check(const nvinfer1::PluginTensorDesc* inputs, int32_t count) const;
    size_t workspace(const std::vector<Shape>& inputs) const { return workspace_bytes(op_, inputs); }
    void enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc* output_descs,
                 const void* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) const;

  private:
    Core(const Op& op, Attributes attributes);

    const Op& op_;
    const Attributes attributes_;
    std::vector<unsigned char> serialized_;
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_;
};

Shape shape_of(const nvinfer1::Dims& dims);

}  // namespace plugin
}  // namespace flux
