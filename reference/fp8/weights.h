// Weights on the device, in the form in which a checkpoint stores them; kernels decode a code where they use it, which is exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "device.h"

namespace kilotoken::fp8 {

enum class Format { kFp8, kMxfp4, kBf16, kF32 };

// A stack of `count` matrices [rows][cols] of one shape and format (experts), or a single one.
//   kFp8    codes E4M3 [count][rows][cols]; scales F32 [count][scale_rows][scale_cols], one for 128 columns of 128 rows; scale rows
//           restart in each of rows / group_rows groups
//   kMxfp4  codes E2M1 [count][rows][cols / 2], low nibble first; scales E8M0 [count][rows][cols / 32]
//   kBf16, kF32  [count][rows][cols]
struct Linear {
  Format format = Format::kBf16;
  size_t count = 1, rows = 0, cols = 0;
  size_t group_rows = 0;
  Memory codes, scales;

  static Linear make(Format format, size_t count, size_t rows, size_t cols, size_t groups = 1);

  size_t codes_bytes() const;   // of one matrix
  size_t scales_bytes() const;  // of one matrix
  size_t group_scale_rows() const { return (group_rows + 127) / 128; }
  size_t scale_cols() const { return (cols + 127) / 128; }
  // Inputs are quantised when activations are.
  bool fp8_inputs() const { return format == Format::kFp8 || format == Format::kMxfp4; }
};

struct Attention {
  // One fused projection [groups of Q | K | V][hidden], or three; o: [hidden][q_heads * v_head_dim].
  Linear qkv, q, k, v, o;
  Array<float> sinks;  // [q_heads]
  bool has_sinks = false;
};

struct Ffn {
  Linear gate, up, down;  // stacks of all experts in a mixture
};

struct Layer {
  Array<float> input_norm, post_attention_norm;
  Attention attention;
  Ffn ffn;
  Linear router;
  Array<float> correction_bias;
};

struct Weights {
  Linear embedding, head;
  bool tied = false;  // the head is the embedding, and `head` is empty
  Array<float> final_norm;
  std::vector<Layer> layers;
};

}  // namespace kilotoken::fp8
