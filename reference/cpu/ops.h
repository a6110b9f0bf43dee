// The inner loops of the engine as one table of plain functions. Their files (linear.h, attention.h, ...) are compiled once per
// instruction set and everything else for the baseline processor, so the choice is made before any wider instruction runs.
// Every build of the table gives the same bits (simd.h), so the choice is invisible in the results.
// Strides and counts are in elements; matrices are row-major. No function allocates or keeps anything.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kilotoken {

inline constexpr size_t kScaleBlock = 128;  // channels that share an FP8 scale, of weights and of activations

// Weights of y = x W^T: [rows][stride], the first `cols` columns real and zeros behind them, stride a multiple of 16.
struct LinearShape {
  size_t rows;
  size_t cols;
  size_t stride;
  const float* scales;        // [scale rows][scale_cols], one per block of 128 columns; null: unscaled
  const uint32_t* scale_row;  // [rows]: the row of `scales` that belongs to a weight row
  size_t scale_cols;
};

inline constexpr size_t kAttentionRows = 8;  // query rows that one pass over the keys serves

// The query heads that share one key/value head.
struct AttentionHead {
  size_t rows;   // query rows of the step
  size_t heads;  // query heads in this group
  size_t head_dim;
  size_t value_dim;
  const float* queries;  // [rows][query_row_stride], this group's heads first
  size_t query_row_stride;
  const void* keys;  // [positions][key_stride], padded with zeros; BF16 or binary32 as the function called says
  size_t key_stride;
  const void* values;  // [positions][value_stride], likewise
  size_t value_stride;
  const uint32_t* first;  // [rows]: first visible position
  const uint32_t* end;    // [rows]: one past the last visible position; first < end
  const float* sinks;     // [heads], or null
  float scale;
  float* out;  // [rows][out_row_stride], this group's heads first
  size_t out_row_stride;
  // Scratch, for min(rows, kAttentionRows) rows.
  float* packed_queries;  // [rows * heads][key_stride], in the order of packed_rows.h
  float* logits;          // [rows * heads][largest end - smallest first]
  float* denominators;    // [rows * heads]
};

struct Ops {
  const char* instruction_set;
  // packed: `rows` input rows in the order of packed_rows.h; y: [rows][y_stride].
  void (*linear_bf16)(const uint16_t* weights, const LinearShape&, const float* packed, size_t rows, float* y, size_t y_stride);
  void (*linear_f32)(const float* weights, const LinearShape&, const float* packed, size_t rows, float* y, size_t y_stride);
  void (*quantise_activation)(const float* x, size_t cols, float* y);
  void (*rmsnorm)(const float* x, const float* weight, size_t cols, float epsilon, float* y);
  void (*swiglu)(const float* gate, const float* up, size_t cols, float* y);
  void (*sigmoid)(const float* x, size_t cols, float* y);
  void (*attention_bf16)(const AttentionHead&);
  void (*attention_f32)(const AttentionHead&);
};

// The tables this machine can run, best first; empty on an x86-64 processor without AVX2 and FMA.
const Ops* const* available_ops(size_t* count);

}  // namespace kilotoken
