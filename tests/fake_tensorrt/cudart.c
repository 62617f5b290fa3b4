// A CUDA runtime whose device is the host's own memory. Work that is captured runs when its graph is launched: the
// stand-in for TensorRT says how, by `fake_on_launch`.
#include <stdlib.h>
#include <string.h>

typedef void (*Launch)(int);
static Launch on_launch;
static int is_capturing, graphs;

void fake_on_launch(Launch launch) { on_launch = launch; }
// The number of the graph that is being captured, 0 for none.
int fake_capturing(void) { return is_capturing ? graphs : 0; }

static int number(const char* name, int otherwise) {
    const char* text = getenv(name);
    return text ? atoi(text) : otherwise;
}

const char* cudaGetErrorString(int code) { return code == 2 ? "out of memory" : "unknown error"; }
int cudaStreamCreate(void** stream) { return (*stream = malloc(1)) ? 0 : 2; }
int cudaMalloc(void** pointer, size_t size) { return (*pointer = malloc(size)) ? 0 : 2; }
int cudaFree(void* pointer) { return free(pointer), 0; }
int cudaMemset(void* pointer, int value, size_t size) { return memset(pointer, value, size), 0; }
int cudaMemcpyAsync(void* to, const void* from, size_t size, int kind, void* stream) {
    return memcpy(to, from, size), 0;
}
int cudaMemcpy(void* to, const void* from, size_t size, int kind) { return memcpy(to, from, size), 0; }
int cudaStreamDestroy(void* stream) { return free(stream), 0; }
int cudaStreamSynchronize(void* stream) { return 0; }
int cudaDeviceGetAttribute(int* value, int attribute, int device) {
    const int sm = number("FAKE_SM", 87);
    return *value = attribute == 75 ? sm / 10 : sm % 10, 0;
}
int cudaMemGetInfo(size_t* free_bytes, size_t* total) {
    return *total = *free_bytes = (size_t)number("FAKE_FREE_MIB", 4096) << 20, 0;
}
int cudaStreamBeginCapture(void* stream, int mode) { return ++graphs, is_capturing = 1, 0; }
int cudaStreamEndCapture(void* stream, void** graph) {
    is_capturing = 0;
    return *graph = (void*)(size_t)graphs, 0;
}
int cudaGraphInstantiateWithFlags(void** made, void* graph, unsigned long long flags) { return *made = graph, 0; }
int cudaGraphDestroy(void* graph) { return 0; }
int cudaGraphLaunch(void* graph, void* stream) { return on_launch((int)(size_t)graph), 0; }
