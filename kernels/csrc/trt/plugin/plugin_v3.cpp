// The plugins of TensorRT 10: every op as an IPluginV3.
#include "registration.h"

namespace flux {
namespace plugin {
namespace {

using namespace nvinfer1;

// From 10.3 on an output may take the place of an input (PreviewFeature::kALIASED_PLUGIN_IO_10_03).
#if NV_TENSORRT_MAJOR > 10 || NV_TENSORRT_MINOR >= 3
#define FLUX_ALIASES 1
using Build = IPluginV3OneBuildV2;
#else
using Build = IPluginV3OneBuild;
#endif

class Plugin final : public IPluginV3, public IPluginV3OneCore, public Build, public IPluginV3OneRuntime {
  public:
    template <class... From>
    explicit Plugin(const From&... from) : core_(from...) {}

    IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
        switch (type) {
            case PluginCapabilityType::kCORE:
                return static_cast<IPluginV3OneCore*>(this);
            case PluginCapabilityType::kBUILD:
                return static_cast<Build*>(this);
            case PluginCapabilityType::kRUNTIME:
                return static_cast<IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    IPluginV3* clone() noexcept override {
        return guarded(name(), static_cast<Plugin*>(nullptr), [&] { return new Plugin(core_); });
    }

    const char* getPluginName() const noexcept override { return name(); }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

    int32_t configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t input_count, const DynamicPluginTensorDesc*,
                            int32_t) noexcept override {
        return done([&] {
            std::vector<PluginTensorDesc> descs;
            for (int32_t i = 0; i < input_count; ++i) descs.push_back(inputs[i].desc);
            core_.check(descs.data(), input_count);
        });
    }

    int32_t getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                               int32_t input_count) const noexcept override {
        return done([&] {
            for (int32_t i = 0; i < output_count; ++i) outputs[i] = core_.output_type(i, inputs, input_count);
        });
    }

    int32_t getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t, DimsExprs* outputs,
                            int32_t output_count, IExprBuilder& builder) noexcept override {
        return done([&] {
            const std::vector<DimsExprs> found = core_.output_dims(inputs, input_count, builder);
            for (int32_t i = 0; i < output_count; ++i) outputs[i] = found.at(static_cast<size_t>(i));
        });
    }

    bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* descs, int32_t,
                                   int32_t) noexcept override {
        return guarded(name(), false, [&] {
            return core_.supports(position, [&](int32_t i) -> const auto& { return descs[i].desc; });
        });
    }

    int32_t getNbOutputs() const noexcept override { return core_.output_count(); }

    size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t input_count, const DynamicPluginTensorDesc*,
                            int32_t) const noexcept override {
        return guarded(name(), size_t{0}, [&] {
            std::vector<Shape> shapes;
            for (int32_t i = 0; i < input_count; ++i) shapes.push_back(shape_of(inputs[i].max));
            return core_.workspace(shapes);
        });
    }

#if defined(FLUX_ALIASES)
    int32_t getAliasedInput(int32_t output) noexcept override { return output == 0 ? core_.op().in_place : -1; }
#endif

    int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t input_count, const PluginTensorDesc*,
                          int32_t) noexcept override {
        return done([&] { core_.check(inputs, input_count); });
    }

    int32_t enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs,
                    const void* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override {
        return done([&] { core_.enqueue(input_descs, output_descs, inputs, outputs, workspace, stream); });
    }

    IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }
    const PluginFieldCollection* getFieldsToSerialize() noexcept override { return core_.fields(); }

  private:
    const char* name() const noexcept { return core_.op().name; }

    template <class F>
    int32_t done(F run) const noexcept {
        return guarded(name(), 1, [&] {
            run();
            return 0;
        });
    }

    const Core core_;
};

class Creator final : public IPluginCreatorV3One {
  public:
    explicit Creator(const Op& op) : op_(op), names_(op) {}

    const char* getPluginName() const noexcept override { return op_.name; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }
    const PluginFieldCollection* getFieldNames() noexcept override { return names_.collection(); }
    IPluginV3* createPlugin(const char*, const PluginFieldCollection* fields, TensorRTPhase) noexcept override {
        return guarded(op_.name, static_cast<Plugin*>(nullptr), [&] { return new Plugin(op_, fields); });
    }

  private:
    const Op& op_;
    const FieldNames names_;
};

const Registration<Creator> registration;

}  // namespace
}  // namespace plugin
}  // namespace flux
