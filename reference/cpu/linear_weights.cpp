#include "linear_weights.h"

#include <cmath>
#include <cstring>

#include "core/bf16.h"
#include "core/e4m3.h"
#include "core/lanes.h"
#include "core/mxfp4.h"

namespace kilotoken {

namespace {

LinearWeights empty_linear(size_t rows, size_t cols) {
  LinearWeights w;
  w.rows = rows;
  w.cols = cols;
  w.stride = round_up(cols, kLanes);
  return w;
}

[[noreturn]] void refuse(const char* what) { throw RefusedValue(what); }

}  // namespace

LinearWeights linear_from_bf16(const uint8_t* bytes, size_t rows, size_t cols) {
  LinearWeights w = empty_linear(rows, cols);
  w.codes.resize(rows * w.stride);
  for (size_t r = 0; r < rows; ++r) {
    uint16_t* row = w.codes.data() + r * w.stride;
    std::memcpy(row, bytes + r * cols * sizeof(uint16_t), cols * sizeof(uint16_t));
    for (size_t c = 0; c < cols; ++c)
      if ((row[c] & 0x7f80u) == 0x7f80u) refuse("holds a value that is not finite");
  }
  return w;
}

LinearWeights linear_from_f32(const uint8_t* bytes, size_t rows, size_t cols) {
  LinearWeights w = empty_linear(rows, cols);
  w.values.resize(rows * w.stride);
  for (size_t r = 0; r < rows; ++r) {
    float* row = w.values.data() + r * w.stride;
    std::memcpy(row, bytes + r * cols * sizeof(float), cols * sizeof(float));
    for (size_t c = 0; c < cols; ++c)
      if (!std::isfinite(row[c])) refuse("holds a value that is not finite");
  }
  return w;
}

LinearWeights linear_from_fp8(const uint8_t* codes, const float* scales, size_t rows, size_t cols, size_t groups) {
  LinearWeights w = empty_linear(rows, cols);
  const size_t group_rows = rows / groups;
  const size_t group_scale_rows = round_up(group_rows, kScaleBlock) / kScaleBlock;
  w.scale_cols = round_up(cols, kScaleBlock) / kScaleBlock;
  w.scales.assign(scales, scales + groups * group_scale_rows * w.scale_cols);
  for (const float scale : w.scales)
    if (!std::isfinite(scale)) refuse("holds a scale that is not finite");
  w.scale_row.resize(rows);
  w.codes.resize(rows * w.stride);
  for (size_t r = 0; r < rows; ++r) {
    w.scale_row[r] = static_cast<uint32_t>(r / group_rows * group_scale_rows + r % group_rows / kScaleBlock);
    for (size_t c = 0; c < cols; ++c) {
      const uint8_t code = codes[r * cols + c];
      if ((code & 0x7fu) == 0x7fu) refuse("holds a value that is not a number");
      w.codes[r * w.stride + c] = e4m3_to_bf16(code);
    }
  }
  w.fp8_inputs = true;
  return w;
}

LinearWeights linear_from_mxfp4(const uint8_t* packed, const uint8_t* scales, size_t rows, size_t cols) {
  LinearWeights w = empty_linear(rows, cols);
  w.codes.resize(rows * w.stride);
  const size_t blocks = cols / kMxfp4BlockSize;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t b = 0; b < blocks; ++b) {
      float block[kMxfp4BlockSize];
      mxfp4_decode_block(packed + (r * blocks + b) * kMxfp4BlockBytes, scales[r * blocks + b], block);
      uint16_t* out = w.codes.data() + r * w.stride + b * kMxfp4BlockSize;
      for (int k = 0; k < kMxfp4BlockSize; ++k) {
        out[k] = float_to_bf16(block[k]);
        if (!std::isfinite(block[k])) refuse("holds a scale that is not a number or a value beyond BF16");
        if (bf16_to_float(out[k]) != block[k]) refuse("holds a value that BF16 cannot represent");
      }
    }
  }
  w.fp8_inputs = true;
  return w;
}

LinearWeights take_rows(const LinearWeights& from, const std::vector<size_t>& rows) {
  LinearWeights w = empty_linear(rows.size(), from.cols);
  w.fp8_inputs = from.fp8_inputs;
  w.scales = from.scales;
  w.scale_cols = from.scale_cols;
  w.codes.reserve(from.codes.empty() ? 0 : rows.size() * w.stride);
  w.values.reserve(from.values.empty() ? 0 : rows.size() * w.stride);
  for (const size_t r : rows) {
    if (!from.codes.empty())
      w.codes.insert(w.codes.end(), from.codes.begin() + r * w.stride, from.codes.begin() + (r + 1) * w.stride);
    if (!from.values.empty())
      w.values.insert(w.values.end(), from.values.begin() + r * w.stride, from.values.begin() + (r + 1) * w.stride);
    if (!from.scale_row.empty()) w.scale_row.push_back(from.scale_row[r]);
  }
  return w;
}

QkvWeights split_fused_qkv(const LinearWeights& fused, size_t groups, size_t q_rows, size_t k_rows, size_t v_rows) {
  const size_t q = q_rows / groups, k = k_rows / groups, v = v_rows / groups;
  std::vector<size_t> q_ids, k_ids, v_ids;
  size_t row = 0;
  for (size_t g = 0; g < groups; ++g) {
    for (size_t i = 0; i < q; ++i) q_ids.push_back(row++);
    for (size_t i = 0; i < k; ++i) k_ids.push_back(row++);
    for (size_t i = 0; i < v; ++i) v_ids.push_back(row++);
  }
  return {take_rows(fused, q_ids), take_rows(fused, k_ids), take_rows(fused, v_ids)};
}

}  // namespace kilotoken
