// What every kernel takes: raw pointers and sizes, checked once by the binding (module.cpp) or made by the plan.
//
// A map is NHWC float32 of one frame: cell (y, x) is row y * width + x, `step` floats after the row before it
// (step >= channels, so that a slice of channels of a wider map is a map too: concat and split are no copies).
// A kernel computes the rows in `cells` and no other, in place in the cache map.
#pragma once
#include <cstddef>
#include <cstdint>

namespace flux {

enum class Act : int {
    none,
    clamp,
    leaky,
    prelu,
    silu,
    sigmoid,
    tanh,
    hardswish,
    hardsigmoid,
    gelu,
    gelu_tanh,
    elu,
    mish,
    count
};
enum class Gate : int { none, largest, mean };
enum class Term : int { act, scale, add, sub, rsub, mul, div, max, min, count };
enum class Pool : int { max, mean, sum };

struct Map {
    const float* at;
    ptrdiff_t step;
    int height, width;
};

// Where results go. A gated row is written, and its `changed` set, only if it differs from the row that is there by
// more than `bound` (its largest or its mean change); `changed` runs along `cells`. NaN always differs.
struct Target {
    float* at;
    ptrdiff_t step;
    int width, channels;
    const int32_t* cells;
    int count;
    Gate gate;
    float bound;
    uint8_t* changed;
};

struct Epilogue {
    Act act;
    float a, b;             // clamp: [a, b]; leaky, elu: a
    const float* slope;     // prelu: one for each channel
    const float* residual;  // a map like the target, or null
    ptrdiff_t residual_step;
    bool residual_first;  // act(y + residual), not act(y) + residual
};

// Row (y, x) of the target reads, for each tap, input cell (y / up * stride + tap_y, x / up * stride + tap_x), or zero
// outside the map. A transposed convolution is one of these for each phase of its stride (see pack.py).
// weights: [group][panel][tap][in_per_group][panel width of the variant], zero-padded; bias alike,
// [group][panel][width]. Depthwise: [tap][channels], padded to the vector; bias [channels], padded.
struct Conv2d {
    Map in;
    const float* zero;  // as many zeros as the input has channels
    Target out;
    int stride_y, stride_x, up_y, up_x;
    int taps;
    const int32_t *tap_y, *tap_x;
    int groups, in_per_group, out_per_group;
    const float *weights, *bias;
    Epilogue end;
    void* scratch;  // conv2d_scratch() bytes, aligned to 64
};

// Taps as in Conv2d, those outside the map left out. mean divides by `divisor`, or by the taps inside if it is 0.
struct Pool2d {
    Map in;
    Target out;
    int stride_y, stride_x;
    int taps;
    const int32_t *tap_y, *tap_x;
    Pool kind;
    float divisor;
    void* scratch;
};

// out[y, x] = sum over i, j of weight_y[y, i] weight_x[x, j] in[index_y[y, i], index_x[x, j]]; an index < 0 is left
// out.
struct Resample2d {
    Map in;
    Target out;
    int taps_y, taps_x;
    const int32_t *index_y, *index_x;
    const float *weight_y, *weight_x;
    void* scratch;
};

// One term of a pointwise chain: v = act(v), v * a + b, or v (op) other. `other` is a map like the target (step), one
// row for all cells (step 0), or one value a cell (single).
struct Step {
    Term term;
    Act act;
    float a, b;
    const float* other;
    ptrdiff_t step;
    bool single;
};

struct Pointwise {
    Map in;
    Target out;
    const Step* steps;
    int count;
    void* scratch;
};

struct LayerNorm {
    Map in;
    Target out;
    const float *gamma, *beta;  // or null
    float epsilon;
    void* scratch;
};

struct Softmax {
    Map in;
    Target out;
    float scale;  // softmax(scale * x)
    void* scratch;
};

// Rows in out.cells are queries. Query row r belongs to group group_of[r] (null: all rows are group 0) and is member
// member_of[r] of it (null: r); it attends to the rows keys[group * members + 0 .. members) of k and v.
// score = scale * q . k + bias[group * bias_group + head * bias_head + member * members + key]; head h uses channels
// h * dim .. of q and k, h * value_dim .. of v and of the output.
struct Attention {
    Map q, k, v;
    Target out;
    int heads, dim, value_dim;
    float scale;
    const int32_t* keys;
    int members;
    const int32_t *group_of, *member_of;
    const float* bias;                // or null
    ptrdiff_t bias_group, bias_head;  // strides in floats; 0 where shared
    float* sums;                      // or null: kSums numbers of each row and head, for a correction
    void* scratch;                    // attention_scratch(members, heads, dim, value_dim, channels) bytes
};

// What a row and head keep beside their mean of v, so that it can be corrected: the offset, the sum of exp(score -
// offset), and the largest such sum since the row was computed.
constexpr int kSums = 3;

// Rows in now.out.cells are means that lose the terms of some keys as they were and gain them as they are: `now.keys` is
// one group, the keys that changed, `k_old` and `v_old` have rows as k and v. No bias, no gate. A row in which that
// would cost precision has `poor` set (along `cells`) and must be computed anew.
struct Correction {
    Attention now;  // scratch: attention_scratch() of twice the members
    Map k_old, v_old;
    uint8_t* poor;
};

constexpr float kMostAbove = 8;      // of a new score over its row's offset
constexpr float kLeastLeft = 0.25f;  // of the largest sum since the row was computed

constexpr int kBlock = 168;  // rows worked on together: a multiple of every variant's tile

constexpr size_t round64(size_t bytes) { return (bytes + 63) / 64 * 64; }

constexpr size_t rows_scratch(size_t channels) { return round64(kBlock * channels * sizeof(float)); }

constexpr int kLineCells = 11;  // cells a tap that rows side by side read, for all of them; see lines.h

constexpr size_t conv2d_scratch(size_t taps, size_t channels) {
    return 2 * round64(kBlock * sizeof(void*)) + 2 * round64(kBlock * sizeof(int)) + round64(kBlock) +
           round64(kBlock * taps * sizeof(void*)) + round64(kLineCells * taps * sizeof(void*)) +
           round64(taps * 2 * sizeof(ptrdiff_t)) + rows_scratch(channels);
}

constexpr int kGather = 4096;                   // rows that attention sorts by their groups together
constexpr int kMostTile = 14, kMostPanel = 32;  // of all variants

constexpr size_t attention_scratch(size_t members, size_t /*heads*/, size_t dim, size_t /*value_dim*/,
                                   size_t channels) {
    members += kMostTile;
    return 2 * round64(members * sizeof(void*)) + 3 * round64(kBlock * sizeof(void*)) +
           round64(kBlock * sizeof(int32_t)) + round64(kBlock) + 2 * round64(kGather * sizeof(int32_t)) +
           round64(dim * kMostPanel * sizeof(float)) + round64(members * kMostPanel * sizeof(float)) +
           rows_scratch(channels);
}

constexpr size_t taps_scratch(size_t taps, size_t channels) {  // pooling and resampling
    return rows_scratch(channels) + round64(taps * 2 * sizeof(void*));
}

// total[i] += |a[i] * gain[i] + bias[i] - b[i * step]|, by the types of a and b.
template <class T, class R>
using Residual = void (*)(const T* a, const float* gain, const float* bias, const R* b, ptrdiff_t step, int count,
                          float* total);

struct Residuals {
    Residual<uint8_t, uint8_t> bytes;
    Residual<uint8_t, float> mixed;
    Residual<float, float> floats;

    void operator()(const uint8_t* a, const float* gain, const float* bias, const uint8_t* b, ptrdiff_t step, int count,
                    float* total) const {
        bytes(a, gain, bias, b, step, count, total);
    }
    void operator()(const uint8_t* a, const float* gain, const float* bias, const float* b, ptrdiff_t step, int count,
                    float* total) const {
        mixed(a, gain, bias, b, step, count, total);
    }
    void operator()(const float* a, const float* gain, const float* bias, const float* b, ptrdiff_t step, int count,
                    float* total) const {
        floats(a, gain, bias, b, step, count, total);
    }
};

// One set of kernels for one kind of processor.
struct Kernels {
    const char* name;
    int panel;  // output channels in a panel of packed weights
    int lanes;  // depthwise weights are padded to this
    void (*cached_conv2d)(const Conv2d&);
    void (*cached_depthwise2d)(const Conv2d&);
    void (*cached_pool2d)(const Pool2d&);
    void (*cached_resample2d)(const Resample2d&);
    void (*cached_pointwise)(const Pointwise&);
    void (*cached_layer_norm)(const LayerNorm&);
    void (*cached_softmax)(const Softmax&);
    void (*cached_attention)(const Attention&);
    void (*correct_attention)(const Correction&);
    double (*peak)(int64_t rounds);  // floating-point operations done in `rounds` rounds of independent multiply-adds
    // Luma of `count` pixels as bytes; of floats (each channel's pixels `step` apart) as luma * scale + offset held to
    // 0 .. 255, false when any is NaN or infinite.
    void (*luma_u8)(const uint8_t* rgb, int count, uint8_t* to);
    bool (*luma_f32)(const float* r, const float* g, const float* b, ptrdiff_t step, int count, float scale,
                     float offset, uint8_t* to);
    Residuals residuals;
};

extern const Kernels plain_kernels, vec128_kernels, wide_kernels, avx2_kernels, avx512_kernels;

// The variants in this build, best first and at the end "wide", which only builds for tests have; null ends the list.
extern const Kernels* const variants[];

bool runs_here(const Kernels& kernels);

}  // namespace flux
