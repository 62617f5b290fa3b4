// Scalars: the oracle of every other variant, and the last resort.
#include "../ops.h"

namespace flux {

extern const Kernels plain_kernels = {
    "plain",
    1,
    1,
    cached_conv2d,
    cached_depthwise2d,
    cached_pool2d,
    cached_resample2d,
    cached_pointwise,
    cached_layer_norm,
    cached_softmax,
    cached_attention,
    correct_attention,
    peak,
    luma_u8,
    luma_f32,
    kResiduals,
};

}  // namespace flux
