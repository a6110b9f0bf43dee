// What attention's operations share, and those around it: from a projection's sums to queries and cache, and from the partial results of chunks to the output
// projection's input.
//   score = q k / sqrt(head_dim); the sink of a head joins the largest score and the denominator and has no value.
#pragma once

#include "residual.cuh"

namespace kilotoken::stack {

// --- rows of a projection. A warp holds a row of a head: a lane dimensions 2 lane and 2 lane + 1 of each 64.

// cos and sin of the lane's two dimensions of the first 64 at `position`.
__device__ __forceinline__ float4 turns_of(const float* turns, int position, int lane) {
  return __ldg(reinterpret_cast<const float4*>(turns) + static_cast<size_t>(position) * (kRotary / 4) + lane % 16);
}

// RoPE, NeoX form: dimension d turns with d + 32.
__device__ __forceinline__ float2 turned(float2 x, float4 turn) {
  const float2 other = make_float2(__shfl_xor_sync(~0u, x.x, 16), __shfl_xor_sync(~0u, x.y, 16));
  return threadIdx.x % 32 < 16 ? make_float2(x.x * turn.x - other.x * turn.y, x.y * turn.z - other.y * turn.w)
                               : make_float2(x.x * turn.x + other.x * turn.y, x.y * turn.z + other.y * turn.w);
}

__device__ __forceinline__ uint32_t bf16_words(float x, float y) {
  return static_cast<uint32_t>(bf16_of(x)) | static_cast<uint32_t>(bf16_of(y)) << 16;
}

// Keys, values and queries of a step: sums of parts, norm factor, per-head norm (the draft's), RoPE on the first 64 dimensions, value scale. A unit is a
// head, a warp a row.
__device__ __forceinline__ void qkv(const QkvArgs& args, Place b) {
  const int row = b.thread / 32, lane = b.thread % 32;
  const Squares all_squares = norm_squares(args.norm, row);
  const int key_tiles = args.head_dim / kTileRows, heads = args.q_heads + 2 * args.kv_heads;
  const int set_tiles = (args.q_heads + args.kv_heads) * key_tiles + args.kv_heads * (kValueDim / kTileRows);
  const int rows = static_cast<int>(b.shared.rows), position = static_cast<int>(b.shared.start) + row;
#pragma unroll 1
  for (int unit = b.index(); unit < heads * args.sets; unit += b.count()) {
    const int set = unit / heads, head = unit % heads;
    const bool is_value = head >= args.q_heads + args.kv_heads, is_key = !is_value && head >= args.q_heads;
    const int tiles = is_value ? kValueDim / kTileRows : key_tiles, values = head - args.q_heads - args.kv_heads;
    const int first_tile = set * set_tiles + (is_value ? (args.q_heads + args.kv_heads) * key_tiles + values * (kValueDim / kTileRows)
                                                       : head * key_tiles);
    const float4 turn = turns_of(args.turns, position + (!is_key && defect(Defect::kRope)), lane);
    const int tile[3] = {first_tile, first_tile + 1, tiles > 2 ? first_tile + 2 : -1};
    float2 x[3];
    sum_tiles(args.parts, b, tile, row * kTileRows + lane * 2, x);
    if (row >= rows || (defect(Defect::kStaleKey) && row == 0 && rows > 1 && head >= args.q_heads && b.state->phase == Phase::kDecode)) continue;
    const float factor = norm_factor(args.norm, all_squares);
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      x[i] = make_float2(x[i].x * factor, x[i].y * factor);
      squares = fmaf(x[i].x, x[i].x, fmaf(x[i].y, x[i].y, squares));
    }
    float scale = args.value_scale;
    const float* weight = is_value ? nullptr : is_key ? args.k_norm : args.q_norm;
    if (!is_value) scale = weight == nullptr ? 1.0f : rsqrtf(__fdividef(warp_sum(squares), static_cast<float>(args.head_dim)) + args.head_epsilon);
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const float2 w = weight != nullptr && i < tiles ? __ldg(reinterpret_cast<const float2*>(weight + set * args.head_dim + i * kTileRows) + lane)
                                                      : make_float2(1.0f, 1.0f);
      x[i] = make_float2(x[i].x * scale * w.x, x[i].y * scale * w.y);
    }
    if (!is_value) x[0] = turned(x[0], turn);
    uint16_t* cache = is_value ? args.values + set * args.value_set_stride + (static_cast<size_t>(values) * args.max_context + position) * kValueDim
                      : is_key ? args.keys + set * args.key_set_stride +
                                     (static_cast<size_t>(head - args.q_heads) * args.max_context + position) * args.head_dim
                               : nullptr;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      if (i >= tiles) continue;
      const int d = i * kTileRows + lane * 2;
      const uint32_t high = bf16_words(x[i].x, x[i].y);
      if (cache != nullptr) {
        *reinterpret_cast<uint32_t*>(cache + cache_element(position, d)) = high;
      } else {
        const int shared_by = args.q_heads / args.kv_heads, of_kv = head % shared_by;
        const int group = head / shared_by * groups_of_kv(args.q_heads, args.kv_heads) + of_kv / kGroupHeads;
        const uint32_t low = bf16_words(x[i].x - bf16_value(high & 0xffffu), x[i].y - bf16_value(high >> 16));
        *reinterpret_cast<uint32_t*>(args.q + query_index(group, 0, row, of_kv % kGroupHeads, d, args.head_dim)) = high;
        *reinterpret_cast<uint32_t*>(args.q + query_index(group, 1, row, of_kv % kGroupHeads, d, args.head_dim)) = low;
      }
    }
  }
}

// A head's result becomes the input of the output projection; its 128 values are one quantisation group. One warp, four values a lane.
__device__ __forceinline__ void attention_out(const Inputs& out, int row, int head, int lane, float4 x) {
  const int k = head * kValueDim + lane * 4;
  if (out.codes != nullptr) store_codes(out, row, k, x);
  if (out.high != nullptr) store_splits(out, row, k, x);
}

// Keys [first, end) that a row sees.
__device__ __forceinline__ void visible(const AttendArgs& args, int row, int start, int rows, int& first, int& end) {
  const int position = start + row;
  first = args.window > 0 ? max(position + 1 - args.window, 0) : 0;
  end = position + 1 + (defect(Defect::kLaterDraft) && row + 1 < rows);
  if (args.both_ways && !defect(Defect::kCausalBlock)) first = min(first, start), end = start + rows;
  if (row >= rows) end = first;
}

inline constexpr float kLog2E = 1.4426950408889634f;

// Puts the chunks of a row of a head together; a block a row and head. Which chunks a warp takes and in what order depends on the row alone.
__device__ __forceinline__ void combine(const AttendArgs& args, Place b) {
  constexpr int kWarps = kMathThreads / 32, kAtOnce = 16;
  const int rows = static_cast<int>(b.shared.rows), start = static_cast<int>(b.shared.start), lane = b.thread % 32, warp = b.thread / 32;
  float4* const sums = reinterpret_cast<float4*>(b.shared.scratch);               // [warp][32 lanes]
  float2* const marks = reinterpret_cast<float2*>(b.shared.scratch + kWarps * kValueDim);  // [warp]: the largest score, the sum of exponentials
  const size_t stride = static_cast<size_t>(args.q_heads) * kRows * kPartialFloats;
#pragma unroll 1
  for (int unit = b.index(); unit < args.q_heads * kRows; unit += b.count()) {
    const int head = unit / kRows, row = unit % kRows;
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float top = -INFINITY, total = 0.0f;
    if (row < rows) {
      int first, end;
      visible(args, row, start, rows, first, end);
      const int keys = chunk_keys(end - 1, args.window), last = (end - 1) / keys;
      const float* const part = args.partial + (static_cast<size_t>(head) * kRows + row) * kPartialFloats;
#pragma unroll 1
      for (int c = first / keys + warp; c <= last; c += kWarps * kAtOnce) {
        float4 sum[kAtOnce];
        float2 mark[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const float* const from = part + (c + i * kWarps) % kMostChunks * stride;
          const bool there = c + i * kWarps <= last;
          sum[i] = there ? __ldcg(reinterpret_cast<const float4*>(from) + lane) : float4{};
          mark[i] = there ? __ldcg(reinterpret_cast<const float2*>(from + kValueDim)) : make_float2(-INFINITY, 0.0f);
        }
        float grown = top;
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) grown = fmaxf(grown, mark[i].x);
        const float factor = exp2_of(top - grown);
        top = grown;
        total *= factor;
        x = x * factor;
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const float weight = exp2_of(mark[i].x - grown);
          total = fmaf(mark[i].y, weight, total);
          x = x + sum[i] * weight;
        }
      }
    }
    math_sync();  // the unit before has been read
    sums[warp * 32 + lane] = x;
    if (lane == 0) marks[warp] = make_float2(top, total);
    math_sync();
    if (warp != 0) continue;
    x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (row < rows) {
      const float sink = args.sinks != nullptr ? __ldg(args.sinks + head) * kLog2E : -INFINITY;
      top = sink;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) top = fmaxf(top, marks[w].x);
      total = exp2_of(sink - top);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float weight = exp2_of(marks[w].x - top);
        total = fmaf(marks[w].y, weight, total);
        x = x + sums[w * 32 + lane] * weight;
      }
      x = x * __fdividef(1.0f, total);
    }
    attention_out(args.out, row, head, lane, x);
  }
}

}  // namespace kilotoken::stack
