// Rows on their way into linears: as they are, and as a linear with FP8 or MXFP4 weights sees them. Both views are made once, in
// the order of packed_rows.h, and used by every projection that reads the same rows.
#pragma once

#include "linear_weights.h"
#include "memory.h"
#include "ops.h"
#include "packed_rows.h"

namespace kilotoken {

// kFp8: inputs of FP8 and MXFP4 linears are quantised, K and V are cached as BF16 (the deployed numerics). kBf16: nothing after the
// weights is rounded; carriers, K and V are binary32, so that a run can be held against any implementation of the same weights.
enum class Activations { kBf16, kFp8 };

// Where the views of one input live; each input that is in use at the same time needs its own.
struct InputScratch {
  AlignedVector<float> fp8, packed, packed_fp8;
};

struct LinearInput {
  size_t rows;
  const float* plain;  // [rows][cols]
  const float* fp8;    // the same array when activations are not quantised
  const float* packed_plain;
  const float* packed_fp8;
};

// x: [rows][cols]. The result refers to x and `scratch`.
inline LinearInput linear_input(const Ops& ops, Activations activations, const float* x, size_t rows, size_t cols,
                                InputScratch& scratch) {
  const auto packed = [&](const float* from, AlignedVector<float>& to) {
    to.resize(rows * padded_columns(cols));
    pack_rows(rows, cols, [&](size_t r) { return from + r * cols; }, to.data());
    return to.data();
  };
  const float* plain = packed(x, scratch.packed);
  if (activations == Activations::kBf16) return {rows, x, x, plain, plain};
  scratch.fp8.resize(rows * cols);
  for (size_t r = 0; r < rows; ++r) ops.quantise_activation(x + r * cols, cols, scratch.fp8.data() + r * cols);
  return {rows, x, scratch.fp8.data(), plain, packed(scratch.fp8.data(), scratch.packed_fp8)};
}

// y: [rows][w.rows]
inline void apply_linear(const Ops& ops, const LinearWeights& w, const LinearInput& in, float* y) {
  const float* x = w.fp8_inputs ? in.packed_fp8 : in.packed_plain;
  if (w.codes.empty()) ops.linear_f32(w.values.data(), w.shape(), x, in.rows, y, w.rows);
  else ops.linear_bf16(w.codes.data(), w.shape(), x, in.rows, y, w.rows);
}

}  // namespace kilotoken
