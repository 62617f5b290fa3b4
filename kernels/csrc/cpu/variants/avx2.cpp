// Vectors of 8, built with -mavx2 -mfma.
#define FLUX_LANES 8
#include "../ops.h"

namespace flux {

static void f32_cached_conv2d_6x16_avx2(const Conv2d& p) { cached_conv2d<6, 2>(p); }
static void f32_cached_depthwise2d_4x16_avx2(const Conv2d& p) { cached_depthwise2d<4, 2>(p); }
static void f32_cached_pool2d_avx2(const Pool2d& p) { cached_pool2d(p); }
static void f32_cached_resample2d_avx2(const Resample2d& p) { cached_resample2d(p); }
static void f32_cached_pointwise_avx2(const Pointwise& p) { cached_pointwise(p); }
static void f32_cached_layer_norm_avx2(const LayerNorm& p) { cached_layer_norm(p); }
static void f32_cached_softmax_avx2(const Softmax& p) { cached_softmax(p); }
static void f32_cached_attention_6x16_avx2(const Attention& p) { cached_attention<6, 2>(p); }
static void f32_correct_attention_6x16_avx2(const Correction& p) { correct_attention<6, 2>(p); }

extern const Kernels avx2_kernels = {
    "avx2",
    2 * FLUX_LANES,
    FLUX_LANES,
    f32_cached_conv2d_6x16_avx2,
    f32_cached_depthwise2d_4x16_avx2,
    f32_cached_pool2d_avx2,
    f32_cached_resample2d_avx2,
    f32_cached_pointwise_avx2,
    f32_cached_layer_norm_avx2,
    f32_cached_softmax_avx2,
    f32_cached_attention_6x16_avx2,
    f32_correct_attention_6x16_avx2,
    peak,
    luma_u8,
    luma_f32,
    kResiduals,
};

}  // namespace flux
