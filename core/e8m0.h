// E8M0: an unsigned power-of-two scale, 2^(code - 127) for codes 0..254; 0xff is NaN. There is no zero and no sign.
// Source: OCP Microscaling Formats (MX) v1.0, section 5.4.1.
#pragma once

#include <cstdint>

#include "bits.h"
#include "hd.h"

namespace kilotoken {

inline constexpr uint8_t kE8m0Nan = 0xff;

KT_HD constexpr float e8m0_to_float(uint8_t code) {
  return code == kE8m0Nan ? bits_float(0x7fc00000u) : exp2_exact(static_cast<int>(code) - 127);
}

// The code of 2^exponent, the exponent clamped to [-127, 127].
KT_HD constexpr uint8_t e8m0_from_exponent(int exponent) {
  const int clamped = exponent < -127 ? -127 : (exponent > 127 ? 127 : exponent);
  return static_cast<uint8_t>(clamped + 127);
}

}  // namespace kilotoken
