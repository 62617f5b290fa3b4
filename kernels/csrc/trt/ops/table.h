// The ops that have kernels.
#pragma once
#include "op.h"

namespace flux {

const Op& correct_attention();
const Op& gate();
const Op& halo_gather();
const Op& hold();
const Op& limit();
const Op& miss_window();
const Op& motion_reindex();
const Op& resample();
const Op& row_scatter();
const Op& tile_scatter();

}  // namespace flux
