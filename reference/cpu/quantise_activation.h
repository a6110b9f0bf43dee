// Dynamic FP8 quantisation of a linear's input: per row and per 128 channels, scale = amax / 448 in binary32 (1 if the group
// is all zero), code = E4M3 of x / scale (nearest, ties to even, saturating). What comes out is code * scale in binary32, so
// the linear that follows is the ordinary one. Source: activation_scheme "dynamic" of the published FP8 checkpoints.
#pragma once

#include "core/e4m3.h"
#include "ops.h"
#include "simd.h"

namespace kilotoken::KT_OPS {

// The nearest E4M3 value, as core's float_to_e4m3 gives it, for |x| below 2^126: adding and subtracting 1.5 * 2^20 units of
// x's own binade leaves 4 significant bits, rounded to even; below 2^-6 the unit is that of the subnormals.
KT_INLINE Vec round_to_e4m3(Vec x) {
  const Vec magnitude = bits_and(x, 0x7fffffffu);
  const Vec binade = max(set1(exp2_exact(-6)), bits_and(x, 0x7f800000u));
  const Vec shift = mul(binade, set1(1.5f * exp2_exact(20)));
  const Vec rounded = min(set1(kE4m3Max), sub(add(magnitude, shift), shift));
  return bits_or(rounded, bits_and(x, 0x80000000u));
}

// x, y: [cols]; they may be the same.
void quantise_activation(const float* x, size_t cols, float* y) {
  for (size_t begin = 0; begin < cols; begin += kScaleBlock) {
    const size_t count = begin + kScaleBlock < cols ? kScaleBlock : cols - begin;
    Vec largest = set1(0.0f);
    for_each_vec(count, [&](size_t i, size_t n) { largest = max(largest, bits_and(load_some(x + begin + i, n), 0x7fffffffu)); });
    float lanes[kLanes];
    store(lanes, largest);
    float amax = 0.0f;
    for (int i = 0; i < kLanes; ++i) amax = lanes[i] > amax ? lanes[i] : amax;
    const Vec scale = set1(amax > 0.0f ? amax / kE4m3Max : 1.0f);
    for_each_vec(count, [&](size_t i, size_t n) {
      store_some(y + begin + i, mul(round_to_e4m3(div(load_some(x + begin + i, n), scale)), scale), n);
    });
  }
}

}  // namespace kilotoken::KT_OPS
