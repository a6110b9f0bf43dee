// IEEE 754 binary32 as bits and back, and exact powers of two built from bits. The compiler's own bit cast is used because
// std::bit_cast is a host-only function to nvcc.
#pragma once

#include <cstdint>

#include "hd.h"

namespace kilotoken {

KT_HD constexpr uint32_t float_bits(float x) { return __builtin_bit_cast(uint32_t, x); }
KT_HD constexpr float bits_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// 2^e for e in [-149, 127], exact (subnormal below -126).
KT_HD constexpr float exp2_exact(int e) {
  return e >= -126 ? bits_float(static_cast<uint32_t>(e + 127) << 23) : bits_float(uint32_t{1} << (e + 149));
}

// Round the positive integer `x` to a multiple of 2^shift (nearest, ties to even) and drop the `shift` low bits.
// shift in [1, 31]. The result may carry one bit further than x >> shift.
KT_HD constexpr uint32_t shift_right_rne(uint32_t x, int shift) {
  const uint32_t kept = x >> shift;
  const uint32_t dropped = x & ((uint32_t{1} << shift) - 1);
  const uint32_t half = uint32_t{1} << (shift - 1);
  const bool up = dropped > half || (dropped == half && (kept & 1u));
  return kept + (up ? 1u : 0u);
}

}  // namespace kilotoken
