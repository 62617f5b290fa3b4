// Where each block of a frame was in the reference image: every vector within `radius` of a centre is tried. A block of
// threads takes one block of pixels, each thread every 256th vector, pixels of the frame from shared memory.
//
// A pixel whose source lies outside the image does not move: it is compared with the reference where it is.
#pragma once
#include "device.cuh"

namespace flux {
namespace device {

constexpr int kMotionPixels = 16;  // of a block, down and across

struct SadMotion {
    const void* frame;           // [height, width], levels 0 .. 255
    const void* reference;       // the same
    const int* centre;           // (dy, dx)
    int *vectors, *sad, *still;  // [2, blocks_y, blocks_x], [blocks_y, blocks_x] at the vector and at (0, 0)
    int height, width, blocks_x, blocks_y, radius;
};

#if defined(FLUX_DEVICE_CODE)
struct Candidate {
    int sum, length, number;  // the best is the smallest, compared in this order
};

struct Better {
    __device__ Candidate operator()(const Candidate& a, const Candidate& b) const {
        if (a.sum != b.sum) return a.sum < b.sum ? a : b;
        if (a.length != b.length) return a.length < b.length ? a : b;
        return a.number < b.number ? a : b;
    }
};

template <class T>
__device__ int difference_at(const SadMotion& a, const int* pixels, int y0, int x0, int dy, int dx) {
    const T* reference = static_cast<const T*>(a.reference);
    int sum = 0;
    for (int y = y0; y < min(y0 + kMotionPixels, a.height); ++y) {
        for (int x = x0; x < min(x0 + kMotionPixels, a.width); ++x) {
            const bool inside = y + dy >= 0 && y + dy < a.height && x + dx >= 0 && x + dx < a.width;
            const int at = inside ? (y + dy) * a.width + x + dx : y * a.width + x;
            sum += abs(pixels[(y - y0) * kMotionPixels + x - x0] - static_cast<int>(reference[at]));
        }
    }
    return sum;
}

template <class T>
__device__ void sad_motion(const SadMotion& a) {
    const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
    const int y0 = block / a.blocks_x * kMotionPixels, x0 = block % a.blocks_x * kMotionPixels;
    Candidate* slots = static_cast<Candidate*>(shared_memory());
    int* pixels = reinterpret_cast<int*>(slots + kThreads);
    for (int i = thread; i < kMotionPixels * kMotionPixels; i += kThreads) {
        const int y = y0 + i / kMotionPixels, x = x0 + i % kMotionPixels;
        if (y < a.height && x < a.width) pixels[i] = static_cast<int>(static_cast<const T*>(a.frame)[y * a.width + x]);
    }
    __syncthreads();

    const int side = 2 * a.radius + 1;
    Candidate best = {0x7fffffff, 0x7fffffff, 0x7fffffff};
    for (int i = thread; i < side * side; i += kThreads) {
        const int dy = a.centre[0] + i / side - a.radius, dx = a.centre[1] + i % side - a.radius;
        best = Better()(best, {difference_at<T>(a, pixels, y0, x0, dy, dx), abs(dy) + abs(dx), i});
    }
    best = merged(best, slots, Better());
    if (thread == 0) {
        const int blocks = a.blocks_y * a.blocks_x;
        a.vectors[block] = a.centre[0] + best.number / side - a.radius;
        a.vectors[blocks + block] = a.centre[1] + best.number % side - a.radius;
        a.sad[block] = best.sum;
        a.still[block] = difference_at<T>(a, pixels, y0, x0, 0, 0);
    }
}
#endif

#define FLUX_SAD_MOTION(ENTRY)                                 \
    ENTRY(sad_motion_u8, sad_motion<unsigned char>, SadMotion) \
    ENTRY(sad_motion_f32, sad_motion<float>, SadMotion)
FLUX_SAD_MOTION(FLUX_ENTRY)

}  // namespace device
}  // namespace flux
