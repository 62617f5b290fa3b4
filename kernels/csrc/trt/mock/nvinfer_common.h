// A mock of what TensorRT's plugin interface has in both versions, written from its public documentation: as much as our
// plugins and their tests use. The real headers are the target's own and are never copied here.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cuda_runtime_api.h"

namespace nvinfer1 {

#if NV_TENSORRT_MAJOR >= 10
using Size = int64_t;
#else
using Size = int32_t;
#endif

using AsciiChar = char;

enum class DataType : int32_t {
    kFLOAT = 0,
    kHALF = 1,
    kINT8 = 2,
    kINT32 = 3,
    kBOOL = 4,
    kUINT8 = 5,
#if NV_TENSORRT_MAJOR >= 10
    kFP8 = 6,
    kBF16 = 7,
    kINT64 = 8,
#endif
};

enum class TensorFormat : int32_t { kLINEAR = 0, kCHW2 = 1, kHWC8 = 2, kCHW4 = 3, kCHW16 = 4, kCHW32 = 5 };
using PluginFormat = TensorFormat;

struct Dims {
    static constexpr int32_t MAX_DIMS = 8;
    int32_t nbDims;
    Size d[MAX_DIMS];
};

struct PluginTensorDesc {
    Dims dims;
    DataType type;
    TensorFormat format;
    float scale;
};

struct DynamicPluginTensorDesc {
    PluginTensorDesc desc;
    Dims min, max;
#if NV_TENSORRT_MAJOR >= 10
    Dims opt;
#endif
};

enum class PluginFieldType : int32_t {
    kFLOAT16 = 0,
    kFLOAT32 = 1,
    kFLOAT64 = 2,
    kINT8 = 3,
    kINT16 = 4,
    kINT32 = 5,
    kCHAR = 6,
    kDIMS = 7,
    kUNKNOWN = 8,
};

class PluginField {
  public:
    const AsciiChar* name;
    const void* data;
    PluginFieldType type;
    int32_t length;

    PluginField(const AsciiChar* const name_ = nullptr, const void* const data_ = nullptr,
                const PluginFieldType type_ = PluginFieldType::kUNKNOWN, const int32_t length_ = 0) noexcept
        : name(name_), data(data_), type(type_), length(length_) {}
};

struct PluginFieldCollection {
    int32_t nbFields;
    const PluginField* fields;
};

class IDimensionExpr {
  public:
    virtual bool isConstant() const noexcept = 0;
    virtual Size getConstantValue() const noexcept = 0;

  protected:
    virtual ~IDimensionExpr() noexcept = default;
};

enum class DimensionOperation : int32_t {
    kSUM = 0,
    kPROD = 1,
    kMAX = 2,
    kMIN = 3,
    kSUB = 4,
    kEQUAL = 5,
    kLESS = 6,
    kFLOOR_DIV = 7,
    kCEIL_DIV = 8,
};

class IExprBuilder {
  public:
    virtual const IDimensionExpr* constant(Size value) noexcept = 0;
    virtual const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& first,
                                            const IDimensionExpr& second) noexcept = 0;

  protected:
    virtual ~IExprBuilder() noexcept = default;
};

struct DimsExprs {
    int32_t nbDims;
    const IDimensionExpr* d[Dims::MAX_DIMS];
};

class ILogger {
  public:
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, const AsciiChar* message) noexcept = 0;

  protected:
    virtual ~ILogger() = default;
};

}  // namespace nvinfer1
