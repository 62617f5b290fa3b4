// Attention that corrects what changed. Three launches: lists of the keys that moved and of the queries to compute anew;
// a block for each query and head that takes the old terms of the moved keys out and the new ones in; and, for queries
// whose correction would cost precision in any head, a block that computes them anew, as softmax over chunks of keys.
#pragma once
#include "device.cuh"

namespace flux {
namespace device {

struct Attention {
    const void *q, *k, *v, *k_old, *v_old;          // [heads, tokens, channels]
    const float *numerator, *denominator, *offset;  // [heads, queries, value_channels or 1]
    Indices changed_queries, changed_keys, changed_values;
    int changed_query_count, changed_key_count, changed_value_count;
    Flags fresh;
    void* out;
    float *new_numerator, *new_denominator, *new_offset;
    int *moved, *moved_count;  // the keys that moved, in order, and how many
    int *is_moved, *is_anew;   // a flag for each key, a flag for each query
    int heads, queries, keys, channels, value_channels;
    float scale;
};

#if defined(FLUX_DEVICE_CODE)
constexpr float kOverflow = 20;      // scores above their offset are cut here, before exp
constexpr float kFar = 10;           // and beyond this the offset is no longer a good one
constexpr float kCollapsed = 0.25f;  // of a denominator: less than this is left, and much of it rounding

struct Larger {
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

struct Sum {
    __device__ float operator()(float a, float b) const { return a + b; }
};

template <class T>
__device__ float dot(const T* a, const T* b, int n) {
    float sum = 0;
    for (int i = 0; i < n; ++i) sum += real(a[i]) * real(b[i]);
    return sum;
}

__device__ inline void mark(int* flags, int size, const Indices& list, int count) {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
        const int at = index_of(list, i);
        if (at >= 0 && at < size) flags[at] = 1;
    }
}

// One block. The list is in order whatever the order of the blocks' threads, so sums over it always round alike.
__device__ inline void attention_lists(const Attention& a) {
    const int thread = static_cast<int>(threadIdx.x);
    const bool fresh = flag_of(a.fresh, 0);
    for (int i = thread; i < a.keys; i += kThreads) a.is_moved[i] = 0;
    for (int i = thread; i < a.queries; i += kThreads) a.is_anew[i] = fresh;
    __syncthreads();
    mark(a.is_moved, a.keys, a.changed_keys, a.changed_key_count);
    mark(a.is_moved, a.keys, a.changed_values, a.changed_value_count);
    mark(a.is_anew, a.queries, a.changed_queries, a.changed_query_count);
    __syncthreads();

    int* counts = static_cast<int*>(shared_memory());
    const int part = (a.keys + kThreads - 1) / kThreads, first = thread * part, end = min(first + part, a.keys);
    int mine = 0;
    for (int i = first; i < end; ++i) mine += a.is_moved[i];
    counts[thread] = mine;
    __syncthreads();
    int at = 0;
    for (int t = 0; t < thread; ++t) at += counts[t];
    for (int i = first; i < end; ++i) {
        if (a.is_moved[i]) a.moved[at++] = i;
    }
    if (thread == kThreads - 1) *a.moved_count = at;
}

template <class T>
__device__ void attention_correct(const Attention& a) {
    const int thread = static_cast<int>(threadIdx.x), row = static_cast<int>(blockIdx.x);
    const int head = row / a.queries, query = row % a.queries;
    if (flag_of(a.fresh, 0)) return;
    float* slots = static_cast<float*>(shared_memory());
    float *gained = slots + kThreads, *lost = gained + kThreads;
    const T* q = static_cast<const T*>(a.q) + row * a.channels;
    const int first_key = head * a.keys * a.channels, first_value = head * a.keys * a.value_channels;
    const T *k = static_cast<const T*>(a.k) + first_key, *k_old = static_cast<const T*>(a.k_old) + first_key;
    const T *v = static_cast<const T*>(a.v) + first_value, *v_old = static_cast<const T*>(a.v_old) + first_value;
    const float* numerator = a.numerator + row * a.value_channels;
    float* to = a.new_numerator + row * a.value_channels;
    T* out = static_cast<T*>(a.out) + row * a.value_channels;
    const float offset = a.offset[row];

    for (int c = thread; c < a.value_channels; c += kThreads) to[c] = numerator[c];
    const int moved = *a.moved_count;
    float change = 0, highest = -kFar;
    for (int first = 0; first < moved; first += kThreads) {
        const int count = min(kThreads, moved - first);
        if (thread < count) {
            const int key = a.moved[first + thread];
            const float score = dot(q, k + key * a.channels, a.channels) * a.scale - offset;
            highest = fmaxf(highest, score);
            gained[thread] = expf(fminf(score, kOverflow));
            lost[thread] = expf(dot(q, k_old + key * a.channels, a.channels) * a.scale - offset);
            change += gained[thread] - lost[thread];
        }
        __syncthreads();
        for (int c = thread; c < a.value_channels; c += kThreads) {
            float sum = to[c];
            for (int i = 0; i < count; ++i) {
                const int at = a.moved[first + i] * a.value_channels + c;
                sum += gained[i] * real(v[at]) - lost[i] * real(v_old[at]);
            }
            to[c] = sum;
        }
        __syncthreads();
    }
    const float before = a.denominator[row], denominator = before + merged(change, slots, Sum());
    highest = merged(highest, slots, Larger());
    if (thread == 0) {
        a.new_denominator[row] = denominator;
        a.new_offset[row] = offset;
        if (denominator < kCollapsed * before || highest > kFar) a.is_anew[query] = 1;
    }
    for (int c = thread; c < a.value_channels; c += kThreads) store(out + c, to[c] / denominator);
}

template <class T>
__device__ void attention_anew(const Attention& a) {
    const int thread = static_cast<int>(threadIdx.x), row = static_cast<int>(blockIdx.x);
    const int head = row / a.queries, query = row % a.queries;
    if (!a.is_anew[query]) return;
    float *slots = static_cast<float*>(shared_memory()), *weights = slots + kThreads;
    const T* q = static_cast<const T*>(a.q) + row * a.channels;
    const T* k = static_cast<const T*>(a.k) + head * a.keys * a.channels;
    const T* v = static_cast<const T*>(a.v) + head * a.keys * a.value_channels;
    float* numerator = a.new_numerator + row * a.value_channels;
    T* out = static_cast<T*>(a.out) + row * a.value_channels;

    for (int c = thread; c < a.value_channels; c += kThreads) numerator[c] = 0;
    float peak = 0, mine = 0;
    for (int first = 0; first < a.keys; first += kThreads) {
        const int count = min(kThreads, a.keys - first);
        const float score =
            thread < count ? dot(q, k + (first + thread) * a.channels, a.channels) * a.scale : -kLargest;
        const float highest = merged(score, slots, Larger());
        const float next = first ? fmaxf(peak, highest) : highest, shrink = first ? expf(peak - next) : 0.f;
        peak = next;
        weights[thread] = expf(score - peak);
        mine = mine * shrink + weights[thread];
        __syncthreads();
        for (int c = thread; c < a.value_channels; c += kThreads) {
            float sum = first ? numerator[c] * shrink : 0.f;
            for (int i = 0; i < count; ++i) sum += weights[i] * real(v[(first + i) * a.value_channels + c]);
            numerator[c] = sum;
        }
        __syncthreads();
    }
    const float denominator = merged(mine, slots, Sum());
    if (thread == 0) {
        a.new_denominator[row] = denominator;
        a.new_offset[row] = peak;
    }
    for (int c = thread; c < a.value_channels; c += kThreads) store(out + c, numerator[c] / denominator);
}
#endif

#define FLUX_CORRECT_ATTENTION(ENTRY)                                 \
    ENTRY(attention_lists, attention_lists, Attention)                \
    ENTRY(attention_correct_f32, attention_correct<float>, Attention) \
    ENTRY(attention_correct_f16, attention_correct<Half>, Attention)  \
    ENTRY(attention_anew_f32, attention_anew<float>, Attention)       \
    ENTRY(attention_anew_f16, attention_anew<Half>, Attention)
FLUX_CORRECT_ATTENTION(FLUX_ENTRY)

}  // namespace device
}  // namespace flux
