// FP4 E2M1: 1 sign, 2 exponent (bias 1), 1 mantissa bit. The sixteen codes are +-{0, 0.5, 1, 1.5, 2, 3, 4, 6}; there is
// neither infinity nor NaN. Encoding rounds to nearest, ties to the even code, and saturates at 6.
// Source: OCP Microscaling Formats (MX) v1.0, section 5.3.3.
#pragma once

#include <cstdint>

#include "bits.h"
#include "hd.h"

namespace kilotoken {

KT_HD constexpr float e2m1_to_float(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x8u) << 28;
  const uint32_t exponent = (code >> 1) & 0x3u;
  const uint32_t mantissa = code & 0x1u;
  if (exponent == 0) return bits_float(sign | (mantissa ? 0x3f000000u : 0u));
  return bits_float(sign | ((exponent + 126) << 23) | (mantissa << 22));
}

// NOTE: the format has no NaN; a NaN encodes as 6 with its own sign. A block encoder must look for NaN itself (mxfp4.h does).
KT_HD constexpr uint8_t float_to_e2m1(float x) {
  const uint32_t sign = (float_bits(x) >> 28) & 0x8u;
  const float a = bits_float(float_bits(x) & 0x7fffffffu);
  // Midpoints between neighbours; at a midpoint the even code wins, hence <= and < by turns.
  uint32_t code = 7;
  if (a <= 0.25f) code = 0;
  else if (a < 0.75f) code = 1;
  else if (a <= 1.25f) code = 2;
  else if (a < 1.75f) code = 3;
  else if (a <= 2.5f) code = 4;
  else if (a < 3.5f) code = 5;
  else if (a <= 5.0f) code = 6;
  return static_cast<uint8_t>(sign | code);
}

}  // namespace kilotoken
