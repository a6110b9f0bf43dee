// Attention of a step's rows over the cache: a unit is one head of one row (and, in layers that see everything, one chunk of keys at a fixed
// absolute position). Each unit's sums depend on its own row only, so a row has the same bits alone and among eight.
//   score = q k / sqrt(head_dim); the sink of a head joins the largest score and the denominator and has no value.
#pragma once

#include "block.cuh"

namespace kilotoken::stack {

inline constexpr int kKeysAtOnce = 128;

// Keys, values and queries of a step: sums of parts, norm factor, per-head norm (the draft's), RoPE on the first 64 dimensions, value scale.
__device__ inline void qkv(const QkvArgs& args, Block& b) {
  const int row = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float factor = norm_factor(args.norm, row);
  const int key_tiles = args.head_dim / kTileRows, heads = args.q_heads + 2 * args.kv_heads;
  const int set_tiles = (args.q_heads + args.kv_heads) * key_tiles + args.kv_heads * (kValueDim / kTileRows);
  const int rows = static_cast<int>(b.shared.rows), position = static_cast<int>(b.shared.start) + row;
  for (int unit = b.index; unit < heads * args.sets; unit += b.count) {
    const int set = unit / heads, head = unit % heads;
    const bool is_value = head >= args.q_heads + args.kv_heads, is_key = !is_value && head >= args.q_heads;
    const int tiles = is_value ? kValueDim / kTileRows : key_tiles;
    const int first_tile = set * set_tiles + (is_value ? (args.q_heads + args.kv_heads) * key_tiles +
                                                             (head - args.q_heads - args.kv_heads) * (kValueDim / kTileRows)
                                                       : head * key_tiles);
    float x[6];  // dimensions lane, lane + 32, ...
#pragma unroll
    for (int tile = 0; tile < 3; ++tile) {
      float sums[2] = {};
      if (tile < tiles) sum_parts(args.parts, first_tile + tile, row * kTileRows + lane, 32, sums);
      x[2 * tile] = sums[0] * factor, x[2 * tile + 1] = sums[1] * factor;
    }
    if (row >= rows) continue;
    if (!is_value) {
      const float* weight = is_key ? args.k_norm : args.q_norm;
      if (weight != nullptr) {
        float squares = 0.0f;
#pragma unroll
        for (int j = 0; j < 6; ++j) squares = fmaf(x[j], x[j], squares);
        const float inverse = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(args.head_dim) + args.head_epsilon);
#pragma unroll
        for (int j = 0; j < 6; ++j)
          if (j < 2 * tiles) x[j] = x[j] * inverse * __ldg(weight + set * args.head_dim + j * 32 + lane);
      }
      const float2 turn = __ldg(reinterpret_cast<const float2*>(args.turns) + static_cast<size_t>(position) * (kRotary / 2) + lane);
      const float even = x[0], odd = x[1];
      x[0] = even * turn.x - odd * turn.y;
      x[1] = odd * turn.x + even * turn.y;
    }
    if (is_value) {
      uint16_t* at = args.values + set * args.value_set_stride +
                     (static_cast<size_t>(head - args.q_heads - args.kv_heads) * args.max_context + position) * kValueDim;
#pragma unroll
      for (int j = 0; j < 4; ++j) at[j * 32 + lane] = bf16_of(x[j] * args.value_scale);
    } else if (is_key) {
      uint16_t* at = args.keys + set * args.key_set_stride +
                     (static_cast<size_t>(head - args.q_heads) * args.max_context + position) * args.head_dim;
#pragma unroll
      for (int j = 0; j < 6; ++j)
        if (j < 2 * tiles) at[j * 32 + lane] = bf16_of(x[j]);
    } else {
      float* at = args.q + (static_cast<size_t>(row) * args.q_heads + head) * args.head_dim;
#pragma unroll
      for (int j = 0; j < 6; ++j)
        if (j < 2 * tiles) at[j * 32 + lane] = x[j];
    }
  }
}

__device__ __forceinline__ void unpack8(uint4 words, float (&x)[8]) {
  const uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = __uint_as_float(w[i] << 16);
    x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
  }
}

// Weighted sums of values over keys [first, end), in batches of 128 from `first`. Returns thread d's (d < 128) unnormalised sum for dimension d, and the
// largest score and the sum of exponentials in every thread.
template <int kHeadDim>
__device__ __forceinline__ float attend_range(Block& b, const uint16_t* keys, const uint16_t* values, const float* q, int first, int end,
                                              float& largest, float& total) {
  constexpr int kPart = kHeadDim / 4;  // dimensions of a thread: four threads a key
  const int thread = threadIdx.x, lane = thread % 32;
  const float scale = 1.0f / sqrtf(static_cast<float>(kHeadDim));
  float* scores = b.shared.small;  // [128]
  float acc[8] = {};               // dimensions 8 (thread % 16) .. + 7, keys thread / 16 + 16 i
  largest = -INFINITY;
  total = 0.0f;
  for (int begin = first; begin < end; begin += kKeysAtOnce) {
    uint4 key_words[2][kPart / 8], value_words[8];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int key = min(begin + thread / 4 + h * 64, end - 1);
#pragma unroll
      for (int i = 0; i < kPart / 8; ++i)
        key_words[h][i] = __ldcg(reinterpret_cast<const uint4*>(keys + static_cast<size_t>(key) * kHeadDim + thread % 4 * kPart) + i);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int key = min(begin + thread / 16 + 16 * i, end - 1);
      value_words[i] = __ldcg(reinterpret_cast<const uint4*>(values + static_cast<size_t>(key) * kValueDim) + thread % 16);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float dot = 0.0f;
#pragma unroll
      for (int i = 0; i < kPart / 8; ++i) {
        float k8[8];
        unpack8(key_words[h][i], k8);
#pragma unroll
        for (int j = 0; j < 8; ++j) dot = fmaf(q[thread % 4 * kPart + i * 8 + j], k8[j], dot);
      }
      dot += __shfl_xor_sync(~0u, dot, 1);
      dot += __shfl_xor_sync(~0u, dot, 2);
      const int at = thread / 4 + h * 64;
      if (thread % 4 == 0) scores[at] = begin + at < end ? dot * scale : -INFINITY;
    }
    math_sync();
    const float s[4] = {scores[lane], scores[lane + 32], scores[lane + 64], scores[lane + 96]};
    const float now = fmaxf(largest, warp_max(fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3]))));
    const float rescale = expf(largest - now);  // 0 in the first batch
    const float sum = warp_sum((expf(s[0] - now) + expf(s[1] - now)) + (expf(s[2] - now) + expf(s[3] - now)));
    total = total * rescale + sum;
    largest = now;
#pragma unroll
    for (float& x : acc) x *= rescale;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float weight = expf(scores[thread / 16 + 16 * i] - now);
      float v8[8];
      unpack8(value_words[i], v8);
#pragma unroll
      for (int j = 0; j < 8; ++j) acc[j] = fmaf(weight, v8[j], acc[j]);
    }
    math_sync();  // scores are read
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) b.shared.scratch[thread / 16 * kValueDim + thread % 16 * 8 + j] = acc[j];
  math_sync();
  float sum = 0.0f;
  if (thread < kValueDim) {
#pragma unroll
    for (int g = 0; g < 16; ++g) sum += b.shared.scratch[g * kValueDim + thread];
  }
  math_sync();  // scratch is read
  return sum;
}

// A head's result becomes the input of the output projection; its 128 values are one quantisation group. Threads 0 .. 127 hold x.
__device__ __forceinline__ void attention_out(Block& b, const Inputs& out, int row, int head, float x) {
  const int thread = threadIdx.x;
  if (out.codes != nullptr) {
    const float amax = warp_max(fabsf(x));
    if (thread < kValueDim && thread % 32 == 0) b.shared.small[128 + thread / 32] = amax;
    math_sync();
    const float scale = quant_scale(fmaxf(fmaxf(b.shared.small[128], b.shared.small[129]), fmaxf(b.shared.small[130], b.shared.small[131])));
    if (thread < kValueDim) {
      out.codes[e4m3_input_offset(row, head * kValueDim + thread)] = static_cast<uint8_t>(e4m3_pair(x / scale, 0.0f));
      if (thread == 0) out.scales[head * kRows + row] = scale;
    }
    math_sync();
  }
  if (out.high != nullptr && thread < kValueDim) store_split(out, row, head * kValueDim + thread, x);
}

template <int kHeadDim>
__device__ void attend_heads(const AttendArgs& args, Block& b) {
  const int rows = static_cast<int>(b.shared.rows), start = static_cast<int>(b.shared.start), thread = threadIdx.x;
  const bool chunked = args.partial != nullptr;
  const int chunks = chunked ? (start + rows + args.chunk - 1) / args.chunk : 1;
  for (int unit = b.index; unit < args.q_heads * kRows * chunks; unit += b.count) {
    const int chunk = unit / (args.q_heads * kRows), head = unit / kRows % args.q_heads, row = unit % kRows;
    if (row >= rows) {  // padding rows are zero, so that nothing of an earlier step is quantised into this one
      if (!chunked) attention_out(b, args.out, row, head, 0.0f);
      continue;
    }
    const int position = start + row;
    int first = args.window > 0 ? max(position + 1 - args.window, 0) : 0;
    int end = position + 1;
    if (args.both_ways) first = min(first, start), end = start + rows;
    if (chunked) first = chunk * args.chunk, end = min(end, first + args.chunk);
    float* part = chunked ? args.partial + ((static_cast<size_t>(chunk) * args.q_heads + head) * kRows + row) * (kValueDim + 2) : nullptr;
    if (first >= end) continue;  // a chunk behind this row
    const int kv = head / (args.q_heads / args.kv_heads);
    for (int i = thread; i < kHeadDim; i += kMathThreads)
      b.shared.query[i] = __ldcg(args.q + (static_cast<size_t>(row) * args.q_heads + head) * kHeadDim + i);
    math_sync();
    float largest, total;
    float x = attend_range<kHeadDim>(b, args.keys + static_cast<size_t>(kv) * args.max_context * kHeadDim,
                                     args.values + static_cast<size_t>(kv) * args.max_context * kValueDim, b.shared.query, first, end,
                                     largest, total);
    if (chunked) {
      if (thread < kValueDim) part[thread] = x;
      if (thread == 0) part[kValueDim] = largest, part[kValueDim + 1] = total;
      continue;
    }
    if (args.sinks != nullptr) {
      const float sink = __ldg(args.sinks + head), top = fmaxf(largest, sink);
      total = total * expf(largest - top) + expf(sink - top);
      x *= expf(largest - top);
    }
    attention_out(b, args.out, row, head, x / total);
  }
}

__device__ inline void attend(const AttendArgs& args, Block& b) {
  if (args.head_dim == 192) attend_heads<192>(args, b);
  else attend_heads<128>(args, b);
}

// Chunks in ascending position; how many there are depends on the row alone.
__device__ inline void combine(const AttendArgs& args, Block& b) {
  const int rows = static_cast<int>(b.shared.rows), start = static_cast<int>(b.shared.start), thread = threadIdx.x;
  for (int unit = b.index; unit < args.q_heads * kRows; unit += b.count) {
    const int head = unit / kRows, row = unit % kRows;
    float x = 0.0f;
    if (row < rows) {
      const int chunks = (start + row + args.chunk) / args.chunk;
      const size_t stride = static_cast<size_t>(args.q_heads) * kRows * (kValueDim + 2);
      const float* part = args.partial + (static_cast<size_t>(head) * kRows + row) * (kValueDim + 2);
      float top = args.sinks != nullptr ? __ldg(args.sinks + head) : -INFINITY;
      for (int c = 0; c < chunks; ++c) top = fmaxf(top, __ldcg(part + c * stride + kValueDim));
      float total = args.sinks != nullptr ? expf(__ldg(args.sinks + head) - top) : 0.0f;
      for (int c = 0; c < chunks; ++c) {
        const float factor = expf(__ldcg(part + c * stride + kValueDim) - top);
        total = fmaf(__ldcg(part + c * stride + kValueDim + 1), factor, total);
        if (thread < kValueDim) x = fmaf(__ldcg(part + c * stride + thread), factor, x);
      }
      x /= total;
    }
    attention_out(b, args.out, row, head, x);
  }
}

}  // namespace kilotoken::stack
