// BF16: 1 sign, 8 exponent (bias 127), 7 mantissa bits; the upper half of an IEEE 754 binary32.
// Decoding is exact; encoding rounds to nearest, ties to even, overflows to infinity and keeps a NaN a quiet NaN of its sign.
// Source: the BFLOAT16 definition in "BFLOAT16 - Hardware Numerics Definition" (Intel, 2018), without its flush of subnormals.
#pragma once

#include <cstdint>

#include "bits.h"
#include "hd.h"

namespace kilotoken {

KT_HD constexpr float bf16_to_float(uint16_t code) { return bits_float(static_cast<uint32_t>(code) << 16); }

KT_HD constexpr uint16_t float_to_bf16(float x) {
  const uint32_t bits = float_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x0040u);
  // The exponent sits right above the mantissa, so a carry out of the mantissa is the next exponent, and the last one infinity.
  return static_cast<uint16_t>(shift_right_rne(bits, 16));
}

}  // namespace kilotoken
