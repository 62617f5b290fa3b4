// The library behind the mocked interface: a registry of plugin creators, and a logger that prints errors.
#include <NvInferRuntime.h>

#include <cstdio>
#include <map>
#include <string>
#include <tuple>

namespace {

#if NV_TENSORRT_MAJOR >= 10
using Registered = nvinfer1::IPluginCreatorInterface;
using Named = nvinfer1::IPluginCreatorV3One;
#else
using Registered = nvinfer1::IPluginCreator;
using Named = nvinfer1::IPluginCreator;
#endif

class Registry final : public nvinfer1::IPluginRegistry {
  public:
    bool registerCreator(Registered& creator, const char* space) noexcept override {
        auto& named = static_cast<Named&>(creator);
        return creators_.emplace(std::make_tuple(named.getPluginName(), named.getPluginVersion(), space), &creator)
            .second;
    }

#if NV_TENSORRT_MAJOR >= 10
    Registered* getCreator(const char* name, const char* version, const char* space) noexcept override {
#else
    Registered* getPluginCreator(const char* name, const char* version, const char* space) noexcept override {
#endif
        const auto found = creators_.find({name, version, space});
        return found == creators_.end() ? nullptr : found->second;
    }

  private:
    std::map<std::tuple<std::string, std::string, std::string>, Registered*> creators_;
};

class Logger final : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR) std::fprintf(stderr, "%s\n", message);
    }
};

}  // namespace

extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
    static Registry registry;
    return &registry;
}

extern "C" nvinfer1::ILogger* getLogger() noexcept {
    static Logger logger;
    return &logger;
}
