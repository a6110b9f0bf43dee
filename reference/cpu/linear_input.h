// Rows on their way into linears: as they are, and as a linear with FP8 or MXFP4 weights sees them. Both views are made once
// and used by every projection that reads the same rows.
#pragma once

#include "linear_weights.h"
#include "memory.h"
#include "ops.h"

namespace kilotoken {

enum class Activations { kBf16, kFp8 };  // kBf16: inputs are not quantised (the carriers are binary32)

struct LinearInput {
  const float* plain;  // [rows][stride]
  const float* fp8;    // the same array when activations are not quantised
  size_t rows;
  size_t stride;
};

// x: [rows][cols]; `scratch` holds the quantised rows for as long as the result is used.
inline LinearInput linear_input(const Ops& ops, Activations activations, const float* x, size_t rows, size_t cols,
                                AlignedVector<float>& scratch) {
  if (activations == Activations::kBf16) return {x, x, rows, cols};
  if (scratch.size() < rows * cols) scratch.resize(rows * cols);
  for (size_t r = 0; r < rows; ++r) ops.quantise_activation(x + r * cols, cols, scratch.data() + r * cols);
  return {x, scratch.data(), rows, cols};
}

// y: [rows][w.rows]
inline void apply_linear(const Ops& ops, const LinearWeights& w, const LinearInput& in, float* y) {
  const float* x = w.fp8_inputs ? in.fp8 : in.plain;
  if (w.codes.empty()) ops.linear_f32(w.values.data(), w.shape(), x, in.rows, in.stride, y, w.rows);
  else ops.linear_bf16(w.codes.data(), w.shape(), x, in.rows, in.stride, y, w.rows);
}

}  // namespace kilotoken
