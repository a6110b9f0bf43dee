// MXFP4 block: 32 E2M1 elements along k share one E8M0 scale; two elements a byte, the LOW nibble holding the even k.
// Encoding: shared exponent = floor(log2(amax)) - 2 (2 is E2M1's largest exponent), clamped to E8M0's range, then each
// element is x / 2^exponent rounded by E2M1's rule (so values between 6 and 8 times the scale saturate at 6).
// A block of zeros takes the smallest scale; a NaN anywhere makes the scale NaN; an infinity counts as the largest finite exponent.
// Source: OCP Microscaling Formats (MX) v1.0, sections 5.2 and 6.3; nibble order as in the published MiMo-V2.5 FP4 checkpoint.
#pragma once

#include <cstdint>

#include "bits.h"
#include "e2m1.h"
#include "e8m0.h"
#include "hd.h"

namespace kilotoken {

inline constexpr int kMxfp4BlockSize = 32;
inline constexpr int kMxfp4BlockBytes = 16;

// Element k (0..31) of a packed block, before the scale.
KT_HD constexpr uint8_t mxfp4_nibble(const uint8_t* packed, int k) {
  return (k & 1) ? static_cast<uint8_t>(packed[k >> 1] >> 4) : static_cast<uint8_t>(packed[k >> 1] & 0xfu);
}

// packed: 16 bytes; out: 32 values. NOTE: 6 * 2^127 and 4 * 2^127 exceed binary32 and come out infinite, as the format has it.
KT_HD constexpr void mxfp4_decode_block(const uint8_t* packed, uint8_t scale, float* out) {
  const float s = e8m0_to_float(scale);
  for (int k = 0; k < kMxfp4BlockSize; ++k) out[k] = e2m1_to_float(mxfp4_nibble(packed, k)) * s;
}

// x: 32 values; packed: 16 bytes, overwritten; returns the scale code.
KT_HD constexpr uint8_t mxfp4_encode_block(const float* x, uint8_t* packed) {
  uint32_t amax = 0;  // magnitudes compare as their bits
  for (int k = 0; k < kMxfp4BlockSize; ++k) {
    const uint32_t magnitude = float_bits(x[k]) & 0x7fffffffu;
    if (magnitude > amax) amax = magnitude;
  }
  for (int b = 0; b < kMxfp4BlockBytes; ++b) packed[b] = 0;
  if (amax > 0x7f800000u) return kE8m0Nan;

  int log2_amax = static_cast<int>(amax >> 23) - 127;
  if (log2_amax > 127) log2_amax = 127;  // infinity
  const uint8_t scale = e8m0_from_exponent(log2_amax - 2);  // binary32 subnormals land below -127 and are clamped
  const float inverse = exp2_exact(127 - static_cast<int>(scale));
  for (int k = 0; k < kMxfp4BlockSize; ++k) {
    const uint8_t code = float_to_e2m1(x[k] * inverse);  // exact but for results far below 0.25, which are 0 either way
    packed[k >> 1] = static_cast<uint8_t>(packed[k >> 1] | ((k & 1) ? code << 4 : code));
  }
  return scale;
}

}  // namespace kilotoken
