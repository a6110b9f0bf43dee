// Attention of a step's rows over the cache: a unit is one head (and, in layers that see everything, one chunk of keys at a fixed absolute
// position) with all eight rows, so that keys and values are read once. Sums are ordered by the absolute place of a key, and a key that a row
// does not see adds an exact zero: a row has the same bits alone and among eight.
//   score = q k / sqrt(head_dim); the sink of a head joins the largest score and the denominator and has no value.
#pragma once

#include "residual.cuh"

namespace kilotoken::stack {

inline constexpr int kKeysAtOnce = 192;  // their values fill the input buffer

// --- rows of a projection. A warp holds a row of a head: a lane dimensions 2 lane and 2 lane + 1 of each 64.

// cos and sin of the lane's two dimensions of the first 64 at `position`.
__device__ __forceinline__ float4 turns_of(const float* turns, int position) {
  return __ldg(reinterpret_cast<const float4*>(turns) + static_cast<size_t>(position) * (kRotary / 4) + threadIdx.x % 16);
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
  const int row = threadIdx.x / 32, lane = threadIdx.x % 32;
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
    const float4 turn = turns_of(args.turns, position + (!is_key && defect(Defect::kRope)));
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
    float* query = args.q + (static_cast<size_t>(row) * args.q_heads + head) * args.head_dim;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      if (i >= tiles) continue;
      if (cache != nullptr) reinterpret_cast<uint32_t*>(cache + i * kTileRows)[lane] = bf16_words(x[i].x, x[i].y);
      else reinterpret_cast<float2*>(query + i * kTileRows)[lane] = x[i];
    }
  }
}

// A head's result becomes the input of the output projection; its 128 values are one quantisation group. One warp, four values a lane.
__device__ __forceinline__ void attention_out(const Inputs& out, int row, int head, float4 x) {
  const int k = head * kValueDim + threadIdx.x % 32 * 4;
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

// Scores of keys base .. base + count - 1 into scratch [8][kKeysAtOnce]. Dimensions are paired with registers so that a lane reads 16 bytes of a key at a
// time: which dimension stands where in a product does not matter as long as keys and queries agree.
template <int kHeadDim>
__device__ __forceinline__ void score_keys(const AttendArgs& args, Place b, const uint16_t* keys, int base, int count, int start, int rows) {
  constexpr int kBlocks = kHeadDim / 32;
  const int lane = threadIdx.x % 32, group = lane / 4, part = lane % 4;
  const float scale = rsqrtf(static_cast<float>(kHeadDim));
#pragma unroll 1
  for (int tile = threadIdx.x / 32; tile * 16 < count; tile += kMathThreads / 32) {
    const int key = base + tile * 16 + group, last = base + count - 1;
    const uint4* k0 = reinterpret_cast<const uint4*>(keys + min(key, last) * kHeadDim) + part;
    const uint4* k8 = reinterpret_cast<const uint4*>(keys + min(key + 8, last) * kHeadDim) + part;
    uint4 x[kBlocks], y[kBlocks];
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) x[i] = __ldcg(k0 + i * 4), y[i] = __ldcg(k8 + i * 4);
    float c[4] = {}, d[4] = {};
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      const uint4 high = *reinterpret_cast<const uint4*>(&b.shared.query[0][group][i * 32 + part * 8]);
      const uint4 low = *reinterpret_cast<const uint4*>(&b.shared.query[1][group][i * 32 + part * 8]);
      product_16x8(c, x[i].x, y[i].x, x[i].y, y[i].y, high.x, high.y);
      product_16x8(d, x[i].x, y[i].x, x[i].y, y[i].y, low.x, low.y);
      product_16x8(c, x[i].z, y[i].z, x[i].w, y[i].w, high.z, high.w);
      product_16x8(d, x[i].z, y[i].z, x[i].w, y[i].w, low.z, low.w);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      int first, end;
      visible(args, part * 2 + j, start, rows, first, end);
      float* to = b.shared.scratch + (part * 2 + j) * kKeysAtOnce + tile * 16 + group;
      to[0] = key >= first && key < end ? (c[j] + d[j]) * scale : -INFINITY;
      to[8] = key + 8 >= first && key + 8 < end ? (c[j + 2] + d[j + 2]) * scale : -INFINITY;
    }
  }
}

// Returns the phase of input_full behind its own copies.
template <int kHeadDim>
__device__ __forceinline__ uint32_t attend_heads(const AttendArgs& args, Place b, uint32_t phase) {
  const int rows = static_cast<int>(b.shared.rows), start = static_cast<int>(b.shared.start);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const bool chunked = args.partial != nullptr;
  const int units = args.q_heads * (chunked ? (start + rows + kChunkKeys - 1) / kChunkKeys : 1);
#pragma unroll 1
  for (int unit = b.index(); unit < units; unit += b.count()) {
    const int chunk = unit / args.q_heads, head = unit % args.q_heads, kv = head / (args.q_heads / args.kv_heads);
    int first, end, unused;
    visible(args, 0, start, rows, first, unused);
    visible(args, rows - 1, start, rows, unused, end);
    if (chunked) first = chunk * kChunkKeys, end = min(end, first + kChunkKeys);
    const uint16_t* keys = args.keys + static_cast<size_t>(kv) * args.max_context * kHeadDim;
    const uint16_t* values = args.values + static_cast<size_t>(kv) * args.max_context * kValueDim;
    float largest = -INFINITY, total = 0.0f;  // of row `warp`
    float acc[kRows][4] = {};                 // [row]: dimensions 4 lane .. + 3 over keys warp + 8 i
    math_sync();                              // the unit before is done with shared memory
#pragma unroll
    for (int i = 0; i < kHeadDim / 32; ++i) {
      const float q = __ldcg(args.q + (static_cast<size_t>(warp) * args.q_heads + head) * kHeadDim + i * 32 + lane);
      const uint16_t high = bf16_of(q);
      b.shared.query[0][warp][i * 32 + lane] = high;
      b.shared.query[1][warp][i * 32 + lane] = bf16_of(q - bf16_value(high));
    }
    math_sync();
#pragma unroll 1
    for (int base = first & ~31; base < end; base += kKeysAtOnce) {
      const int count = min(kKeysAtOnce, end - base);
      if (thread == 0) {
        ptx::fence_async_global();
        ptx::fence_async_shared();
        ptx::barrier_expect(&b.shared.input_full, count * kValueDim * 2);
        ptx::bulk_copy(b.shared.input, values + static_cast<size_t>(base) * kValueDim, count * kValueDim * 2, &b.shared.input_full);
      }
      score_keys<kHeadDim>(args, b, keys, base, count, start, rows);
      math_sync();
      // Softmax of row `warp`: weights take the scores' place.
      float* s = b.shared.scratch + warp * kKeysAtOnce;
      float top = largest;
#pragma unroll
      for (int i = 0; i < kKeysAtOnce / 32; ++i)
        if (i * 32 + lane < count) top = fmaxf(top, s[i * 32 + lane]);
      top = warp_max(top);
      const float rescale = largest > -INFINITY ? __expf(largest - top) : 0.0f;
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kKeysAtOnce / 32; ++i) {
        if (i * 32 + lane >= count) break;
        const float x = s[i * 32 + lane], weight = x > -INFINITY ? __expf(x - top) : 0.0f;
        s[i * 32 + lane] = weight;
        sum += weight;
      }
      total = total * rescale + warp_sum(sum);
      largest = top;
      if (lane == 0) b.shared.factor[warp] = rescale;
      math_sync();
      ptx::barrier_wait(&b.shared.input_full, phase, b.fault(), ptx::Wait::kActivations, b.instruction);
      phase ^= 1;
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const float factor = b.shared.factor[row];
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[row][j] *= factor;
      }
#pragma unroll 2
      for (int key = warp; key < count; key += kMathThreads / 32) {
        const uint2 words = *reinterpret_cast<const uint2*>(b.shared.input + key * kValueDim * 2 + lane * 8);
        const float v[4] = {__uint_as_float(words.x << 16), __uint_as_float(words.x & 0xffff0000u), __uint_as_float(words.y << 16),
                            __uint_as_float(words.y & 0xffff0000u)};
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          const float weight = b.shared.scratch[row * kKeysAtOnce + key];
#pragma unroll
          for (int j = 0; j < 4; ++j) acc[row][j] = fmaf(weight, v[j], acc[row][j]);
        }
      }
      math_sync();  // scratch, factor and input are read
    }
    // Eight partial sums of each value, one a warp.
    float4* sums = reinterpret_cast<float4*>(b.shared.input);  // [warp][row][32 lanes]
#pragma unroll
    for (int row = 0; row < kRows; ++row)
      sums[(warp * kRows + row) * 32 + lane] = make_float4(acc[row][0], acc[row][1], acc[row][2], acc[row][3]);
    math_sync();
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);  // row `warp`, values 4 lane .. + 3
#pragma unroll
    for (int w = 0; w < kMathThreads / 32; ++w) x = x + sums[(w * kRows + warp) * 32 + lane];
    if (chunked) {
      float* part = args.partial + ((static_cast<size_t>(chunk) * args.q_heads + head) * kRows + warp) * kPartialFloats;
      *reinterpret_cast<float4*>(part + lane * 4) = x;
      if (lane == 0) part[kValueDim] = largest, part[kValueDim + 1] = total;
      continue;
    }
    if (args.sinks != nullptr) {
      const float sink = __ldg(args.sinks + head), top = fmaxf(largest, sink), factor = __expf(largest - top);
      total = total * factor + __expf(sink - top);
      x = x * factor;
    }
    attention_out(args.out, warp, head, warp < rows ? x * __fdividef(1.0f, total) : float4{});
  }
  return phase;
}

__device__ __forceinline__ uint32_t attend(const AttendArgs& args, Place b, uint32_t phase) {
  return args.head_dim == 192 ? attend_heads<192>(args, b, phase) : attend_heads<128>(args, b, phase);
}

// Chunks in ascending position; how many there are depends on the row alone. A warp a row.
__device__ __forceinline__ void combine(const AttendArgs& args, Place b) {
  const int rows = static_cast<int>(b.shared.rows), start = static_cast<int>(b.shared.start), row = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
  for (int head = b.index(); head < args.q_heads; head += b.count()) {
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (row < rows) {
      const int chunks = (start + row + kChunkKeys) / kChunkKeys;
      const size_t stride = static_cast<size_t>(args.q_heads) * kRows * kPartialFloats;
      const float* part = args.partial + (static_cast<size_t>(head) * kRows + row) * kPartialFloats;
      float top = args.sinks != nullptr ? __ldg(args.sinks + head) : -INFINITY;
      for (int c = lane; c < chunks; c += 32) top = fmaxf(top, __ldcg(part + c * stride + kValueDim));
      top = warp_max(top);
      float total = args.sinks != nullptr ? __expf(__ldg(args.sinks + head) - top) : 0.0f;
#pragma unroll 4
      for (int c = 0; c < chunks; ++c) {
        const float factor = __expf(__ldcg(part + c * stride + kValueDim) - top);
        total = fmaf(__ldcg(part + c * stride + kValueDim + 1), factor, total);
        x = x + __ldcg(reinterpret_cast<const float4*>(part + c * stride) + lane) * factor;
      }
      x = x * __fdividef(1.0f, total);
    }
    attention_out(args.out, row, head, x);
  }
}

}  // namespace kilotoken::stack
