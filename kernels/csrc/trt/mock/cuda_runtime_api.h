// As much of CUDA's runtime as the plugin interface names.
#pragma once

using cudaStream_t = struct CUstream_st*;
