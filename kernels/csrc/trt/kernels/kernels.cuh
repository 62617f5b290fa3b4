// Every kernel, by name: FLUX_KERNELS(ENTRY) calls ENTRY(name, kernel, Arguments) for each.
#pragma once
#include "correct_attention.cuh"
#include "gate.cuh"
#include "halo_gather.cuh"
#include "hold.cuh"
#include "limit.cuh"
#include "miss_window.cuh"
#include "motion_reindex.cuh"
#include "resample.cuh"
#include "row_scatter.cuh"
#include "tile_scatter.cuh"

#define FLUX_KERNELS(ENTRY)       \
    FLUX_CORRECT_ATTENTION(ENTRY) \
    FLUX_GATE(ENTRY)              \
    FLUX_HALO_GATHER(ENTRY)       \
    FLUX_HOLD(ENTRY)              \
    FLUX_LIMIT(ENTRY)             \
    FLUX_MISS_WINDOW(ENTRY)       \
    FLUX_MOTION_REINDEX(ENTRY)    \
    FLUX_RESAMPLE(ENTRY)          \
    FLUX_ROW_SCATTER(ENTRY)       \
    FLUX_TILE_SCATTER(ENTRY)
