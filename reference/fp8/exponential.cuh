// exp(x) by the polynomial of reference/cpu/exponential.h, operation by operation, for the same bits; error bound and range there.
#pragma once

#include "core/bits.h"

namespace kilotoken::fp8 {

__device__ inline float pow2_of_low_bits(float a) { return bits_float((float_bits(a) + 127u) << 23); }

__device__ inline float exponential(float x) {
  const float shift = 12582912.0f;
  const float low = -87.33f > x ? -87.33f : x;  // keeps a NaN
  const float clamped = 89.0f < low ? 89.0f : low;
  const float shifted = fmaf(clamped, 1.44269504f, shift);
  const float n = shifted - shift;
  float r = fmaf(n, -0.693359375f, clamped);
  r = fmaf(n, 2.12194440e-4f, r);

  float p = 1.0f / 5040.0f;
  p = fmaf(p, r, 1.0f / 720.0f);
  p = fmaf(p, r, 1.0f / 120.0f);
  p = fmaf(p, r, 1.0f / 24.0f);
  p = fmaf(p, r, 1.0f / 6.0f);
  p = fmaf(p, r, 0.5f);
  p = fmaf(r * r, p, r);
  p = p + 1.0f;

  const float half = fmaf(n, 0.5f, shift);
  const float rest = (n - (half - shift)) + shift;
  const float result = (p * pow2_of_low_bits(half)) * pow2_of_low_bits(rest);

  const float above = x + 87.33f;
  const float below = 0.0f < above ? 0.0f : above;  // < 0 only below the clamp
  const float flushed = fmaf(below, 1.0f, result);
  return 0.0f > flushed ? 0.0f : flushed;
}

}  // namespace kilotoken::fp8
