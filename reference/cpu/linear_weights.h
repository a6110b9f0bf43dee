// The weight of one linear as the engine holds it, and the four ways a checkpoint stores it. Decoding is exact: E4M3 codes and
// E2M1 codes times their power of two are BF16 numbers, so every quantised weight becomes a BF16 code; the binary32 scales of
// FP8 blocks stay beside the codes. A value that is not finite or does not fit is refused.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "memory.h"
#include "ops.h"

namespace kilotoken {

struct LinearWeights {
  size_t rows = 0;
  size_t cols = 0;
  size_t stride = 0;              // cols rounded up to 16; the padding is zero
  AlignedVector<uint16_t> codes;  // BF16 [rows][stride], or empty
  AlignedVector<float> values;    // binary32 [rows][stride], or empty: exactly one of the two is filled
  std::vector<float> scales;      // [scale rows][scale_cols], empty if unscaled
  std::vector<uint32_t> scale_row;
  size_t scale_cols = 0;
  bool fp8_inputs = false;  // stored as FP8 or MXFP4: its inputs are quantised when activations are

  LinearShape shape() const {
    return {rows, cols, stride, scales.empty() ? nullptr : scales.data(), scale_row.data(), scale_cols};
  }
};

// A value that is not finite or that BF16 cannot hold; the message completes "tensor X ...".
struct RefusedValue : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Each throws RefusedValue. Inputs need no alignment.
// bytes: BF16 codes, little-endian, [rows][cols].
LinearWeights linear_from_bf16(const uint8_t* bytes, size_t rows, size_t cols);
// bytes: binary32, little-endian, [rows][cols].
LinearWeights linear_from_f32(const uint8_t* bytes, size_t rows, size_t cols);
// codes: E4M3 [rows][cols]; scales: [groups * ceil(rows / groups / 128)][ceil(cols / 128)]; scale rows restart in each of
// `groups` equal groups of rows.
LinearWeights linear_from_fp8(const uint8_t* codes, const float* scales, size_t rows, size_t cols, size_t groups);
// packed: E2M1 [rows][cols / 2], the low nibble holding the even column; scales: E8M0 [rows][cols / 32].
LinearWeights linear_from_mxfp4(const uint8_t* packed, const uint8_t* scales, size_t rows, size_t cols);

// Rows of `from`, in the order given, as a linear of their own.
LinearWeights take_rows(const LinearWeights& from, const std::vector<size_t>& rows);

// A fused projection, stored as `groups` groups [Q heads | K heads | V heads], taken apart.
struct QkvWeights {
  LinearWeights q, k, v;
};
QkvWeights split_fused_qkv(const LinearWeights& fused, size_t groups, size_t q_rows, size_t k_rows, size_t v_rows);

}  // namespace kilotoken
