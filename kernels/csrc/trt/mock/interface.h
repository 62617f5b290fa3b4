// One face for the plugins of both versions, as TensorRT would use them.
#pragma once
#include <NvInferRuntime.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace mock {

using namespace nvinfer1;

inline void must(bool holds, const std::string& what) {
    if (!holds) throw std::runtime_error(what);
}

// Fields that own what they point to.
class Fields {
  public:
    void add(const std::string& name, PluginFieldType type, const void* data, size_t bytes, int32_t count) {
        names_.push_back(std::make_unique<std::string>(name));
        const auto* first = static_cast<const unsigned char*>(data);
        values_.push_back(std::make_unique<std::vector<unsigned char>>(first, first + bytes));
        list_.emplace_back(names_.back()->c_str(), values_.back()->data(), type, count);
    }
    std::vector<PluginField>& list() { return list_; }
    PluginFieldCollection collection() const { return {static_cast<int32_t>(list_.size()), list_.data()}; }

  private:
    std::vector<std::unique_ptr<std::string>> names_;
    std::vector<std::unique_ptr<std::vector<unsigned char>>> values_;
    std::vector<PluginField> list_;
};

struct Descs {
    std::vector<PluginTensorDesc> inputs, outputs;
};

#if NV_TENSORRT_MAJOR >= 10

using Saved = Fields;

class Handle {
  public:
    explicit Handle(IPluginV3* plugin) : plugin_(plugin) {}

    explicit operator bool() const { return plugin_ != nullptr; }
    std::string name() const { return core()->getPluginName(); }
    Handle clone() const { return Handle(plugin_->clone()); }
    Handle attached() const { return Handle(runtime()->attachToContext(nullptr)); }
    int32_t output_count() const { return build()->getNbOutputs(); }
    int32_t aliased(int32_t output) const {
        return static_cast<IPluginV3OneBuildV2*>(build())->getAliasedInput(output);
    }

    std::vector<DataType> types(const std::vector<DataType>& inputs) const {
        std::vector<DataType> found(static_cast<size_t>(output_count()));
        must(build()->getOutputDataTypes(found.data(), output_count(), inputs.data(),
                                         static_cast<int32_t>(inputs.size())) == 0,
             "getOutputDataTypes");
        return found;
    }
    std::vector<DimsExprs> dims(const std::vector<DimsExprs>& inputs, IExprBuilder& builder) const {
        std::vector<DimsExprs> found(static_cast<size_t>(output_count()));
        must(build()->getOutputShapes(inputs.data(), static_cast<int32_t>(inputs.size()), nullptr, 0, found.data(),
                                      output_count(), builder) == 0,
             "getOutputShapes");
        return found;
    }
    bool supports(int32_t position, const std::vector<PluginTensorDesc>& all, int32_t inputs) const {
        const std::vector<DynamicPluginTensorDesc> wide = dynamic(all);
        return build()->supportsFormatCombination(position, wide.data(), inputs,
                                                  static_cast<int32_t>(all.size()) - inputs);
    }
    bool configure(const Descs& descs) const {
        const auto in = dynamic(descs.inputs), out = dynamic(descs.outputs);
        const auto inputs = static_cast<int32_t>(in.size()), outputs = static_cast<int32_t>(out.size());
        return build()->configurePlugin(in.data(), inputs, out.data(), outputs) == 0 &&
               runtime()->onShapeChange(descs.inputs.data(), inputs, descs.outputs.data(), outputs) == 0;
    }
    size_t workspace(const Descs& descs) const {
        const auto in = dynamic(descs.inputs), out = dynamic(descs.outputs);
        return build()->getWorkspaceSize(in.data(), static_cast<int32_t>(in.size()), out.data(),
                                         static_cast<int32_t>(out.size()));
    }
    int32_t enqueue(const Descs& descs, const void* const* inputs, void* const* outputs, void* workspace) const {
        return runtime()->enqueue(descs.inputs.data(), descs.outputs.data(), inputs, outputs, workspace, nullptr);
    }
    Saved save() const {
        Saved found;
        const PluginFieldCollection* fields = runtime()->getFieldsToSerialize();
        for (int32_t i = 0; i < fields->nbFields; ++i) {
            const PluginField& field = fields->fields[i];
            found.add(field.name, field.type, field.data, static_cast<size_t>(field.length) * 4, field.length);
        }
        return found;
    }

  private:
    static std::vector<DynamicPluginTensorDesc> dynamic(const std::vector<PluginTensorDesc>& descs) {
        std::vector<DynamicPluginTensorDesc> found;
        for (const PluginTensorDesc& desc : descs) found.push_back({desc, desc.dims, desc.dims, desc.dims});
        return found;
    }
    template <class Capability>
    Capability* capability(PluginCapabilityType type) const {
        return static_cast<Capability*>(plugin_->getCapabilityInterface(type));
    }
    IPluginV3OneCore* core() const { return capability<IPluginV3OneCore>(PluginCapabilityType::kCORE); }
    IPluginV3OneBuild* build() const { return capability<IPluginV3OneBuild>(PluginCapabilityType::kBUILD); }
    IPluginV3OneRuntime* runtime() const { return capability<IPluginV3OneRuntime>(PluginCapabilityType::kRUNTIME); }

    std::unique_ptr<IPluginV3> plugin_;
};

class Maker {
  public:
    explicit Maker(const std::string& op)
        : creator_(static_cast<IPluginCreatorV3One*>(getPluginRegistry()->getCreator(op.c_str(), "1", "flux"))) {
        must(creator_ != nullptr, op + ": no creator of this name is registered");
    }
    const PluginFieldCollection* names() const { return creator_->getFieldNames(); }
    Handle create(const PluginFieldCollection* fields) const {
        return Handle(creator_->createPlugin("a layer", fields, TensorRTPhase::kBUILD));
    }
    Handle load(const Saved& saved) const {
        const PluginFieldCollection fields = saved.collection();
        return Handle(creator_->createPlugin("a layer", &fields, TensorRTPhase::kRUNTIME));
    }

  private:
    IPluginCreatorV3One* creator_;
};

#else

using Saved = std::vector<unsigned char>;

class Handle {
  public:
    explicit Handle(IPluginV2* plugin) : plugin_(static_cast<IPluginV2DynamicExt*>(plugin)) {}

    explicit operator bool() const { return plugin_ != nullptr; }
    std::string name() const { return plugin_->getPluginType(); }
    Handle clone() const {
        plugin_->setPluginNamespace("elsewhere");
        Handle copy(plugin_->clone());
        must(copy.plugin_->getPluginNamespace() == std::string("elsewhere"), "a clone keeps the namespace");
        return copy;
    }
    Handle attached() const { return clone(); }
    int32_t output_count() const { return plugin_->getNbOutputs(); }
    int32_t aliased(int32_t) const { return -1; }

    std::vector<DataType> types(const std::vector<DataType>& inputs) const {
        std::vector<DataType> found;
        for (int32_t i = 0; i < output_count(); ++i) {
            found.push_back(plugin_->getOutputDataType(i, inputs.data(), static_cast<int32_t>(inputs.size())));
        }
        return found;
    }
    std::vector<DimsExprs> dims(const std::vector<DimsExprs>& inputs, IExprBuilder& builder) const {
        std::vector<DimsExprs> found;
        for (int32_t i = 0; i < output_count(); ++i) {
            found.push_back(
                plugin_->getOutputDimensions(i, inputs.data(), static_cast<int32_t>(inputs.size()), builder));
        }
        return found;
    }
    bool supports(int32_t position, const std::vector<PluginTensorDesc>& all, int32_t inputs) const {
        return plugin_->supportsFormatCombination(position, all.data(), inputs,
                                                  static_cast<int32_t>(all.size()) - inputs);
    }
    bool configure(const Descs&) const {
        plugin_->configurePlugin(nullptr, 0, nullptr, 0);
        return plugin_->initialize() == 0;
    }
    size_t workspace(const Descs& descs) const {
        return plugin_->getWorkspaceSize(descs.inputs.data(), static_cast<int32_t>(descs.inputs.size()),
                                         descs.outputs.data(), static_cast<int32_t>(descs.outputs.size()));
    }
    int32_t enqueue(const Descs& descs, const void* const* inputs, void* const* outputs, void* workspace) const {
        return plugin_->enqueue(descs.inputs.data(), descs.outputs.data(), inputs, outputs, workspace, nullptr);
    }
    Saved save() const {
        Saved found(plugin_->getSerializationSize());
        plugin_->serialize(found.data());
        return found;
    }

  private:
    struct Destroy {
        void operator()(IPluginV2DynamicExt* plugin) const {
            plugin->terminate();
            plugin->destroy();
        }
    };
    std::unique_ptr<IPluginV2DynamicExt, Destroy> plugin_;
};

class Maker {
  public:
    explicit Maker(const std::string& op) : creator_(getPluginRegistry()->getPluginCreator(op.c_str(), "1", "flux")) {
        must(creator_ != nullptr, op + ": no creator of this name is registered");
    }
    const PluginFieldCollection* names() const { return creator_->getFieldNames(); }
    Handle create(const PluginFieldCollection* fields) const {
        return Handle(creator_->createPlugin("a layer", fields));
    }
    Handle load(const Saved& saved) const {
        return Handle(creator_->deserializePlugin("a layer", saved.data(), saved.size()));
    }

  private:
    IPluginCreator* creator_;
};

#endif

}  // namespace mock
