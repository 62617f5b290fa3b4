// TensorRT 8.5, as far as plugins see it.
#pragma once

#define NV_TENSORRT_MAJOR 8
#define NV_TENSORRT_MINOR 5
