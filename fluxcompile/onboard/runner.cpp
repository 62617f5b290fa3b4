// Runs the engine of this bundle over frames from a file, as run.py does.
//
//     ./runner FRAMES.bin OUT.bin [BUNDLE]
//
// FRAMES.bin holds, frame after frame, the bytes of every input that is no cache, in the engine's order; OUT.bin gets
// the results of every frame and the counts `work`, in the engine's order of those outputs that feed no cache, or are
// results too. Which output feeds which cache is read from caches.txt: a line each, input, output, and 1 where that
// output is a result.
#include <NvInfer.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

[[noreturn]] void fail(const std::string& message) {
    std::cerr << "error: " << message << '\n';
    std::exit(1);
}

void require(cudaError_t code, const char* what) {
    if (code != cudaSuccess) fail(std::string(what) + ": " + cudaGetErrorString(code));
}

class Logger : public nvinfer1::ILogger {
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kWARNING) std::cerr << message << '\n';
    }
};

std::vector<char> contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(path + ": cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

size_t bytes_of(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT:
        case nvinfer1::DataType::kINT32:
            return 4;
        case nvinfer1::DataType::kHALF:
            return 2;
        case nvinfer1::DataType::kBOOL:
            return 1;
        default:
            return 8;  // int64, from TensorRT 10 on
    }
}

struct Tensor {
    std::string name;
    bool is_input;
    size_t bytes;
};

std::vector<Tensor> tensors_of(const nvinfer1::ICudaEngine& engine) {
    std::vector<Tensor> found;
    for (int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
        const char* name = engine.getIOTensorName(i);
        const nvinfer1::Dims shape = engine.getTensorShape(name);
        size_t bytes = bytes_of(engine.getTensorDataType(name));
        for (int32_t d = 0; d < shape.nbDims; ++d) bytes *= static_cast<size_t>(shape.d[d]);
        found.push_back({name, engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT, bytes});
    }
    return found;
}

struct Cache {
    std::string input, output;
    int is_result;
};

std::vector<Cache> caches_of(const std::string& path) {
    std::ifstream file(path);
    if (!file) fail(path + ": cannot be read");
    std::vector<Cache> found;
    Cache cache;
    while (file >> cache.input >> cache.output >> cache.is_result) found.push_back(cache);
    return found;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) fail("give FRAMES.bin and OUT.bin, and the bundle's folder if it is not this one");
    const std::string folder = std::string(argc > 3 ? argv[3] : ".") + "/";
    if (!dlopen((folder + "plugin/build/libflux_plugins.so").c_str(), RTLD_NOW | RTLD_GLOBAL)) fail(dlerror());
    Logger logger;
    const std::vector<char> plan = contents(folder + "engine.plan"), frames = contents(argv[1]);
    const std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
    if (!runtime) fail("TensorRT's runtime cannot be made");
    const std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine) fail("engine.plan cannot be loaded; run build_engine.py on this machine");
    const std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    if (!context) fail("there is no room for the engine; free memory on the GPU");

    const std::vector<Tensor> tensors = tensors_of(*engine);
    const std::vector<Cache> caches = caches_of(folder + "caches.txt");
    std::set<std::string> cached, fed;
    for (const Cache& cache : caches) {
        cached.insert(cache.input);
        if (!cache.is_result) fed.insert(cache.output);
    }
    cudaStream_t stream;
    require(cudaStreamCreate(&stream), "cudaStreamCreate");
    std::map<std::string, void*> device;
    size_t frame_bytes = 0;
    for (const Tensor& tensor : tensors) {
        require(cudaMalloc(&device[tensor.name], tensor.bytes), "cudaMalloc");
        require(cudaMemset(device[tensor.name], 0, tensor.bytes), "cudaMemset");
        context->setTensorAddress(tensor.name.c_str(), device[tensor.name]);
        if (tensor.is_input && !cached.count(tensor.name)) frame_bytes += tensor.bytes;
    }
    if (!frame_bytes || frames.size() % frame_bytes) fail(std::string(argv[1]) + ": does not hold whole frames");

    std::ofstream out(argv[2], std::ios::binary);
    std::vector<char> result;
    for (size_t at = 0; at < frames.size(); at += frame_bytes) {
        const auto began = std::chrono::steady_clock::now();
        const char* next = frames.data() + at;
        for (const Tensor& tensor : tensors) {
            if (!tensor.is_input || cached.count(tensor.name)) continue;
            require(cudaMemcpyAsync(device[tensor.name], next, tensor.bytes, cudaMemcpyHostToDevice, stream), "copy");
            next += tensor.bytes;
        }
        if (!context->enqueueV3(stream)) fail("TensorRT could not run a frame");
        require(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
        const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
        std::printf("frame %zu: %.2f ms\n", at / frame_bytes, took.count());
        for (const Tensor& tensor : tensors) {
            if (tensor.is_input || fed.count(tensor.name)) continue;
            result.resize(tensor.bytes);
            require(cudaMemcpy(result.data(), device[tensor.name], tensor.bytes, cudaMemcpyDeviceToHost), "copy");
            out.write(result.data(), static_cast<std::streamsize>(result.size()));
        }
        for (const Cache& cache : caches) {  // what this frame left is what the next one finds
            std::swap(device[cache.input], device[cache.output]);
            context->setTensorAddress(cache.input.c_str(), device[cache.input]);
            context->setTensorAddress(cache.output.c_str(), device[cache.output]);
        }
    }
    for (const auto& buffer : device) cudaFree(buffer.second);
    cudaStreamDestroy(stream);
    return 0;
}
