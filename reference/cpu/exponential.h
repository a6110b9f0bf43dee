// exp(x) on sixteen floats: x = n ln 2 + r with |r| <= ln(2) / 2, a polynomial for e^r, then two exact multiplications by
// powers of two. Our own rather than the C library's so that it is fast and has the same bits on every machine.
// Relative error below 2e-7 where the result is a normal float; 0 below -87.3 (no subnormal results), infinity above 88.73.
#pragma once

#include "simd.h"

namespace kilotoken::KT_OPS {

KT_INLINE Vec exponential(Vec x) {
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits.
  const Vec shift = set1(12582912.0f);
  const Vec clamped = min(set1(89.0f), max(set1(-87.33f), x));
  const Vec shifted = fma(clamped, set1(1.44269504f), shift);
  const Vec n = sub(shifted, shift);
  Vec r = fma(n, set1(-0.693359375f), clamped);  // ln 2 in two parts; the first times any |n| <= 128 is exact
  r = fma(n, set1(2.12194440e-4f), r);

  // Taylor coefficients 1/k!, k = 7 .. 2; the remainder is below 6e-9 on the reduced range.
  Vec p = set1(1.0f / 5040.0f);
  p = fma(p, r, set1(1.0f / 720.0f));
  p = fma(p, r, set1(1.0f / 120.0f));
  p = fma(p, r, set1(1.0f / 24.0f));
  p = fma(p, r, set1(1.0f / 6.0f));
  p = fma(p, r, set1(0.5f));
  p = fma(mul(r, r), p, r);
  p = add(p, set1(1.0f));

  // 2^n = 2^half 2^(n - half), since 2^128 is not a float.
  const Vec half = fma(n, set1(0.5f), shift);
  const Vec rest = add(sub(n, sub(half, shift)), shift);
  const Vec result = mul(mul(p, pow2_of_low_bits(half)), pow2_of_low_bits(rest));

  // Flush what the clamp at -87.33 held up: a lane below it becomes 0.
  const Vec below = min(set1(0.0f), add(x, set1(87.33f)));  // < 0 only there
  return max(set1(0.0f), fma(below, set1(1.0f), result));
}

}  // namespace kilotoken::KT_OPS
