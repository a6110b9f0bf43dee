// FP8 E4M3 (the "FN" form): 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinity; S.1111.111 is NaN; largest value 448,
// smallest subnormal 2^-9. Encoding rounds to nearest, ties to even, and saturates: anything beyond 448, infinities
// included, becomes +-448; NaN becomes 0x7f or 0xff.
// Source: OCP 8-bit Floating Point Specification (OFP8) v1.0, sections 5.1 and 5.2 (saturating conversion).
#pragma once

#include <cstdint>

#include "bf16.h"
#include "bits.h"
#include "hd.h"

namespace kilotoken {

inline constexpr float kE4m3Max = 448.0f;

KT_HD constexpr float e4m3_to_float(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  const uint32_t exponent = (code >> 3) & 0xfu;
  const uint32_t mantissa = code & 0x7u;
  if (exponent == 15 && mantissa == 7) return bits_float(sign | 0x7fc00000u);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * exp2_exact(-9);
    return bits_float(sign | float_bits(magnitude));
  }
  return bits_float(sign | ((exponent + 120) << 23) | (mantissa << 20));
}

// The same value as BF16 bits; exact, since 4 significant bits and exponents -9..8 fit.
KT_HD constexpr uint16_t e4m3_to_bf16(uint8_t code) {
  return static_cast<uint16_t>(float_bits(e4m3_to_float(code)) >> 16);
}

KT_HD constexpr uint8_t float_to_e4m3(float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7fu);
  const int exponent = static_cast<int>(magnitude >> 23) - 127;  // -127 also for binary32 subnormals: far below the range
  if (exponent < -10) return static_cast<uint8_t>(sign);         // |x| < 2^-10, half of the smallest subnormal
  const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;  // 1.23 fixed point
  uint32_t code;
  if (exponent < -6) {
    code = shift_right_rne(significand, 20 + (-6 - exponent));  // subnormal: units of 2^-9; a carry lands on the first normal
  } else {
    const int biased = exponent + 7 > 16 ? 16 : exponent + 7;
    code = (static_cast<uint32_t>(biased - 1) << 3) + shift_right_rne(significand, 20);
  }
  return static_cast<uint8_t>(sign | (code > 0x7eu ? 0x7eu : code));
}

}  // namespace kilotoken
