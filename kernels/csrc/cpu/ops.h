// Every op; the translation units in variants/ include this once each.
#pragma once
#include "cached_attention.h"
#include "cached_conv2d.h"
#include "cached_depthwise2d.h"
#include "cached_layer_norm.h"
#include "cached_pointwise.h"
#include "cached_pool2d.h"
#include "cached_resample2d.h"
#include "cached_softmax.h"
#include "correct_attention.h"
#include "luma.h"
#include "peak.h"
#include "residual.h"
