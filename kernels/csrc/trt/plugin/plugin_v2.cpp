// The plugins of TensorRT 8: every op as an IPluginV2DynamicExt.
#include "registration.h"

namespace flux {
namespace plugin {
namespace {

using namespace nvinfer1;

class Plugin final : public IPluginV2DynamicExt {
  public:
    template <class... From>
    explicit Plugin(const From&... from) : core_(from...) {}

    IPluginV2DynamicExt* clone() const noexcept override {
        return guarded(name(), static_cast<Plugin*>(nullptr), [&] {
            auto copy = std::make_unique<Plugin>(core_);
            copy->namespace_ = namespace_;
            return copy.release();
        });
    }

    DimsExprs getOutputDimensions(int32_t output, const DimsExprs* inputs, int32_t input_count,
                                  IExprBuilder& builder) noexcept override {
        return guarded(name(), DimsExprs{-1, {}},
                       [&] { return core_.output_dims(inputs, input_count, builder).at(static_cast<size_t>(output)); });
    }

    bool supportsFormatCombination(int32_t position, const PluginTensorDesc* descs, int32_t,
                                   int32_t) noexcept override {
        return guarded(name(), false,
                       [&] { return core_.supports(position, [&](int32_t i) -> const auto& { return descs[i]; }); });
    }

    // Nothing can be refused here; enqueue does.
    void configurePlugin(const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*,
                         int32_t) noexcept override {}

    size_t getWorkspaceSize(const PluginTensorDesc* inputs, int32_t input_count, const PluginTensorDesc*,
                            int32_t) const noexcept override {
        return guarded(name(), size_t{0}, [&] {
            std::vector<Shape> shapes;
            for (int32_t i = 0; i < input_count; ++i) shapes.push_back(shape_of(inputs[i].dims));
            return core_.workspace(shapes);
        });
    }

    int32_t enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs,
                    const void* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override {
        return guarded(name(), 1, [&] {
            core_.enqueue(input_descs, output_descs, inputs, outputs, workspace, stream);
            return 0;
        });
    }

    DataType getOutputDataType(int32_t output, const DataType* inputs, int32_t count) const noexcept override {
        return guarded(name(), DataType::kFLOAT, [&] { return core_.output_type(output, inputs, count); });
    }

    const char* getPluginType() const noexcept override { return name(); }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    int32_t getNbOutputs() const noexcept override { return core_.output_count(); }
    int32_t initialize() noexcept override { return 0; }
    void terminate() noexcept override {}
    size_t getSerializationSize() const noexcept override { return core_.serialized().size(); }
    void serialize(void* to) const noexcept override {
        std::memcpy(to, core_.serialized().data(), core_.serialized().size());
    }
    void destroy() noexcept override { delete this; }
    void setPluginNamespace(const char* name) noexcept override {
        guarded(this->name(), 0, [&] {
            namespace_ = name;
            return 0;
        });
    }
    const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

  private:
    const char* name() const noexcept { return core_.op().name; }

    const Core core_;
    std::string namespace_ = kNamespace;
};

class Creator final : public IPluginCreator {
  public:
    explicit Creator(const Op& op) : op_(op), names_(op) {}

    const char* getPluginName() const noexcept override { return op_.name; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const PluginFieldCollection* getFieldNames() noexcept override { return names_.collection(); }
    IPluginV2* createPlugin(const char*, const PluginFieldCollection* fields) noexcept override {
        return guarded(op_.name, static_cast<Plugin*>(nullptr), [&] { return new Plugin(op_, fields); });
    }
    IPluginV2* deserializePlugin(const char*, const void* data, size_t bytes) noexcept override {
        return guarded(op_.name, static_cast<Plugin*>(nullptr), [&] { return new Plugin(op_, data, bytes); });
    }
    void setPluginNamespace(const char*) noexcept override {}
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

  private:
    const Op& op_;
    const FieldNames names_;
};

const Registration<Creator> registration;

}  // namespace
}  // namespace plugin
}  // namespace flux
