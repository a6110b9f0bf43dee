// Dynamic FP8 quantisation of a linear's input: per row and per 128 channels, scale = amax / 448 in binary32 (1 if the group
// is all zero), code = E4M3 of x / scale (nearest, ties to even, saturating). What comes out is code * scale in binary32, so
// the linear that follows is the ordinary one. Source: activation_scheme "dynamic" of the published FP8 checkpoints.
#pragma once

#include "core/e4m3.h"
#include "ops.h"
#include "simd.h"

namespace kilotoken::KT_OPS {

// x, y: [cols]; they may be the same.
void quantise_activation(const float* x, size_t cols, float* y) {
  for (size_t begin = 0; begin < cols; begin += kScaleBlock) {
    const size_t count = begin + kScaleBlock < cols ? kScaleBlock : cols - begin;
    float amax = 0.0f;
    for (size_t i = begin; i < begin + count; ++i) {
      const float magnitude = x[i] < 0.0f ? -x[i] : x[i];
      amax = magnitude > amax ? magnitude : amax;
    }
    const float scale = amax > 0.0f ? amax / kE4m3Max : 1.0f;
    for (size_t i = begin; i < begin + count; ++i) y[i] = e4m3_to_float(float_to_e4m3(x[i] / scale)) * scale;
  }
}

}  // namespace kilotoken::KT_OPS
