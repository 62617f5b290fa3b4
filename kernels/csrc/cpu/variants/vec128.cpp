// Vectors of 4 with whatever the compiler's default target has: SSE2 on x86-64, NEON on aarch64.
#define FLUX_LANES 4
#include "../ops.h"

namespace flux {

static void f32_cached_conv2d_4x8_vec128(const Conv2d& p) { cached_conv2d<4, 2>(p); }
static void f32_cached_depthwise2d_4x8_vec128(const Conv2d& p) { cached_depthwise2d<4, 2>(p); }
static void f32_cached_pool2d_vec128(const Pool2d& p) { cached_pool2d(p); }
static void f32_cached_resample2d_vec128(const Resample2d& p) { cached_resample2d(p); }
static void f32_cached_pointwise_vec128(const Pointwise& p) { cached_pointwise(p); }
static void f32_cached_layer_norm_vec128(const LayerNorm& p) { cached_layer_norm(p); }
static void f32_cached_softmax_vec128(const Softmax& p) { cached_softmax(p); }
static void f32_cached_attention_4x8_vec128(const Attention& p) { cached_attention<4, 2>(p); }
static void f32_correct_attention_4x8_vec128(const Correction& p) { correct_attention<4, 2>(p); }

extern const Kernels vec128_kernels = {
    "vec128",
    2 * FLUX_LANES,
    FLUX_LANES,
    f32_cached_conv2d_4x8_vec128,
    f32_cached_depthwise2d_4x8_vec128,
    f32_cached_pool2d_vec128,
    f32_cached_resample2d_vec128,
    f32_cached_pointwise_vec128,
    f32_cached_layer_norm_vec128,
    f32_cached_softmax_vec128,
    f32_cached_attention_4x8_vec128,
    f32_correct_attention_4x8_vec128,
    peak,
    luma_u8,
    luma_f32,
    kResiduals,
};

}  // namespace flux
