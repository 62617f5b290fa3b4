// Vectors of 16, built with -mavx512f and its usual companions.
#define FLUX_LANES 16
#include "../ops.h"

namespace flux {

static void f32_cached_conv2d_14x32_avx512(const Conv2d& p) { cached_conv2d<14, 2>(p); }
static void f32_cached_depthwise2d_4x32_avx512(const Conv2d& p) { cached_depthwise2d<4, 2>(p); }
static void f32_cached_pool2d_avx512(const Pool2d& p) { cached_pool2d(p); }
static void f32_cached_resample2d_avx512(const Resample2d& p) { cached_resample2d(p); }
static void f32_cached_pointwise_avx512(const Pointwise& p) { cached_pointwise(p); }
static void f32_cached_layer_norm_avx512(const LayerNorm& p) { cached_layer_norm(p); }
static void f32_cached_softmax_avx512(const Softmax& p) { cached_softmax(p); }
static void f32_cached_attention_14x32_avx512(const Attention& p) { cached_attention<14, 2>(p); }
static void f32_correct_attention_14x32_avx512(const Correction& p) { correct_attention<14, 2>(p); }

extern const Kernels avx512_kernels = {
    "avx512",
    2 * FLUX_LANES,
    FLUX_LANES,
    f32_cached_conv2d_14x32_avx512,
    f32_cached_depthwise2d_4x32_avx512,
    f32_cached_pool2d_avx512,
    f32_cached_resample2d_avx512,
    f32_cached_pointwise_avx512,
    f32_cached_layer_norm_avx512,
    f32_cached_softmax_avx512,
    f32_cached_attention_14x32_avx512,
    f32_correct_attention_14x32_avx512,
    peak,
    luma_u8,
    luma_f32,
    kResiduals,
};

}  // namespace flux
