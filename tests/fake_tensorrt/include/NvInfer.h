// What the C++ runner takes of TensorRT, and one engine: next = cache + x, mean = next / 2, for two numbers each.
#pragma once
#include <cstdint>
#include <cstring>
#include <map>
#include <string>

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT, kHALF, kINT8, kINT32, kBOOL };
enum class TensorIOMode : int32_t { kNONE, kINPUT, kOUTPUT };

struct Dims {
    int32_t nbDims;
    int32_t d[8];
};

class ILogger {
  public:
    enum class Severity : int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO };
    virtual void log(Severity severity, const char* message) noexcept = 0;
    virtual ~ILogger() = default;
};

class IExecutionContext {
  public:
    bool setTensorAddress(const char* name, void* data) { return addresses_[name] = data, true; }
    bool enqueueV3(void*) {
        const float *x = at("x"), *cache = at("cache");
        for (int i = 0; i < 2; ++i) {
            at("next")[i] = cache[i] + x[i];
            at("mean")[i] = at("next")[i] / 2;
        }
        return at("next") != cache;  // as engines are: not in place
    }

  private:
    float* at(const char* name) { return static_cast<float*>(addresses_.at(name)); }
    std::map<std::string, void*> addresses_;
};

class ICudaEngine {
  public:
    int32_t getNbIOTensors() const { return 4; }
    const char* getIOTensorName(int32_t i) const {
        static const char* names[] = {"x", "cache", "next", "mean"};
        return names[i];
    }
    Dims getTensorShape(const char*) const { return {2, {1, 2}}; }
    DataType getTensorDataType(const char*) const { return DataType::kFLOAT; }
    TensorIOMode getTensorIOMode(const char* name) const {
        const bool is_input = !std::strcmp(name, "x") || !std::strcmp(name, "cache");
        return is_input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    IExecutionContext* createExecutionContext() { return new IExecutionContext; }
};

class IRuntime {
  public:
    ICudaEngine* deserializeCudaEngine(const void* data, size_t size) {
        return std::string(static_cast<const char*>(data), size) == "plan" ? new ICudaEngine : nullptr;
    }
};

inline IRuntime* createInferRuntime(ILogger&) { return new IRuntime; }

}  // namespace nvinfer1
