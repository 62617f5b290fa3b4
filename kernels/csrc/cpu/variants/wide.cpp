// The AVX-512 kernels in default instructions: slow, so that their logic is tested on any machine; never chosen.
#define FLUX_LANES 16
#include "../ops.h"

namespace flux {

static void f32_cached_conv2d_14x32_wide(const Conv2d& p) { cached_conv2d<14, 2>(p); }
static void f32_cached_depthwise2d_4x32_wide(const Conv2d& p) { cached_depthwise2d<4, 2>(p); }
static void f32_cached_pool2d_wide(const Pool2d& p) { cached_pool2d(p); }
static void f32_cached_resample2d_wide(const Resample2d& p) { cached_resample2d(p); }
static void f32_cached_pointwise_wide(const Pointwise& p) { cached_pointwise(p); }
static void f32_cached_layer_norm_wide(const LayerNorm& p) { cached_layer_norm(p); }
static void f32_cached_softmax_wide(const Softmax& p) { cached_softmax(p); }
static void f32_cached_attention_14x32_wide(const Attention& p) { cached_attention<14, 2>(p); }
static void f32_correct_attention_14x32_wide(const Correction& p) { correct_attention<14, 2>(p); }

extern const Kernels wide_kernels = {
    "wide",
    2 * FLUX_LANES,
    FLUX_LANES,
    f32_cached_conv2d_14x32_wide,
    f32_cached_depthwise2d_4x32_wide,
    f32_cached_pool2d_wide,
    f32_cached_resample2d_wide,
    f32_cached_pointwise_wide,
    f32_cached_layer_norm_wide,
    f32_cached_softmax_wide,
    f32_cached_attention_14x32_wide,
    f32_correct_attention_14x32_wide,
    peak,
    luma_u8,
    luma_f32,
    kResiduals,
};

}  // namespace flux
