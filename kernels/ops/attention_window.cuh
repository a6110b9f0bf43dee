// Attention of layers with a short window, from the projection's sums to the output projection's input in one operation: a block a head. It works in two
// stretches with one wait between them: old keys (registers) and old values (shared memory) are fetched while the sums are still being made; then
// norm, RoPE, scores, softmax and weighted values follow without leaving the block. Every head of a group makes the step's keys and values for itself; the
// first of them also writes the cache.
// Keys lie in tiles of sixteen at absolute positions and sums run over absolute positions, so a row has the same bits alone and among eight.
#pragma once

#include "attention.cuh"

namespace kilotoken::stack {

inline constexpr int kWindowKeyDim = 192;
inline constexpr int kMostWindow = 128;
inline constexpr int kWindowTiles = 10;             // of sixteen keys: 127 old ones, up to 15 before them, 8 new ones
inline constexpr int kWindowKeys = 127 + 15 + kRows + 2;  // rounded up to eight
inline constexpr int kLateKeys = 16;                // old keys in the ninth tile, the one behind those that the warps hold
inline constexpr int kScoreStride = kWindowTiles * 16 + 4;

// Sixteen bytes j of a value row lie at j ^ (row % 8), so that eight rows spread over all banks. Rows behind kWindowKeys are read with weight zero: what
// follows must be numbers, and keys are.
struct WindowScratch {
  uint16_t values[kWindowKeys][kValueDim];
  uint16_t new_keys[kRows][kQueryStride];
  uint16_t late_keys[kLateKeys][kQueryStride];
  __device__ __forceinline__ uint16_t* value(int key, int chunk) { return &values[key][(chunk ^ (key & 7)) * 8]; }
};
static_assert(sizeof(WindowScratch) <= kInputBytes && kRows * kScoreStride <= 16 * kValueDim);
static_assert(sizeof(Shared::query) >= kRows * kValueDim * sizeof(float));

__device__ __forceinline__ void attend_window(const AttendWindowArgs& args, Place b) {
  constexpr int kBlocks = kWindowKeyDim / 32;
  const int head = b.index(), kv = head / (args.q_heads / args.kv_heads);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, group = lane / 4, part = lane % 4;
  const int rows = static_cast<int>(b.shared.rows), start = static_cast<int>(b.shared.start);
  const int row = warp, position = start + row;
  const int base = max(start + 1 - args.window, 0) & ~15, end = start + rows, tiles = (end - base + 15) / 16;
  WindowScratch& scratch = *reinterpret_cast<WindowScratch*>(b.shared.input);
  uint16_t* keys = args.keys + static_cast<size_t>(kv) * args.max_context * kWindowKeyDim;
  uint16_t* values = args.values + static_cast<size_t>(kv) * args.max_context * kValueDim;

  // What is already there.
  const float4 turn = turns_of(args.turns, position);
  const Squares squares = norm_squares(args.norm, row);
  // A warp holds keys of one tile: `group` and `group` + 8, sixteen bytes at a time. The ninth tile's and the new ones go through shared memory.
  uint4 x[kBlocks], y[kBlocks];
  {
    const int key = base + warp * 16 + group;
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      x[i] = key < start ? load_now(keys + static_cast<size_t>(key) * kWindowKeyDim + i * 32 + part * 8) : uint4{};
      y[i] = key + 8 < start ? load_now(keys + static_cast<size_t>(key + 8) * kWindowKeyDim + i * 32 + part * 8) : uint4{};
    }
  }
#pragma unroll
  for (int i = 0; i < (kWindowKeys + 15) / 16; ++i) {  // sixteen threads a key
    const int key = i * 16 + thread / 16;
    const bool old = base + key < start;
    if (key < kWindowKeys) copy_16(scratch.value(key, thread % 16), values + (old ? static_cast<size_t>(base + key) * kValueDim + thread % 16 * 8 : 0), old);
  }
  constexpr int kKeyChunks = kWindowKeyDim / 8;
#pragma unroll
  for (int i = 0; i < kKeyChunks * kLateKeys / kMathThreads + 1; ++i) {
    const int at = i * kMathThreads + thread, key = at / kKeyChunks, chunk = at % kKeyChunks;
    const bool old = base + 128 + key < start;
    if (key < kLateKeys)
      copy_16(&scratch.late_keys[key][chunk * 8], keys + (old ? static_cast<size_t>(base + 128 + key) * kWindowKeyDim + chunk * 8 : 0), old);
  }

  // What this step adds: row `warp` of q, k and v.
  {
    const int key_tiles = kWindowKeyDim / kTileRows, value_tiles = kValueDim / kTileRows;
    const int q_tile = head * key_tiles, k_tile = (args.q_heads + kv) * key_tiles;
    const int v_tile = (args.q_heads + args.kv_heads) * key_tiles + kv * value_tiles;
    const float factor = norm_factor(args.norm, squares);
    const int query_tile[3] = {q_tile, q_tile + 1, q_tile + 2}, pair_tile[5] = {k_tile, k_tile + 1, k_tile + 2, v_tile, v_tile + 1};
    {
      float2 sum[3];
      sum_tiles(args.parts, b, query_tile, row * kTileRows + lane * 2, sum);
#pragma unroll
      for (int i = 0; i < 3; ++i) sum[i] = make_float2(sum[i].x * factor, sum[i].y * factor);
      sum[0] = turned(sum[0], turn);
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        const uint32_t high = bf16_words(sum[i].x, sum[i].y);
        *reinterpret_cast<uint32_t*>(&b.shared.query[0][row][i * kTileRows + lane * 2]) = high;
        *reinterpret_cast<uint32_t*>(&b.shared.query[1][row][i * kTileRows + lane * 2]) =
            bf16_words(sum[i].x - bf16_value(high & 0xffffu), sum[i].y - bf16_value(high >> 16));
      }
    }
    float2 sum[5];
    sum_tiles(args.parts, b, pair_tile, row * kTileRows + lane * 2, sum);
#pragma unroll
    for (int i = 0; i < 5; ++i) {
      const float scale = i < 3 || defect(Defect::kValueScale) ? factor : factor * args.value_scale;
      sum[i] = make_float2(sum[i].x * scale, sum[i].y * scale);
    }
    sum[0] = turned(sum[0], turn);
    copies_wait();
    math_sync();  // old values are there, zeros where the new ones go
    const bool writes = head % (args.q_heads / args.kv_heads) == 0 && row < rows;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const uint32_t key = bf16_words(sum[i].x, sum[i].y);
      *reinterpret_cast<uint32_t*>(&scratch.new_keys[row][i * kTileRows + lane * 2]) = key;
      if (writes) reinterpret_cast<uint32_t*>(keys + static_cast<size_t>(position) * kWindowKeyDim + i * kTileRows)[lane] = key;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t value = bf16_words(sum[3 + i].x, sum[3 + i].y);
      if (row < rows) *reinterpret_cast<uint32_t*>(scratch.value(position - base, i * 8 + lane / 4) + lane % 4 * 2) = value;
      if (writes) reinterpret_cast<uint32_t*>(values + static_cast<size_t>(position) * kValueDim + i * kTileRows)[lane] = value;
    }
  }
  math_sync();

  // Scores: [8][kScoreStride].
  const float scale = rsqrtf(static_cast<float>(kWindowKeyDim));
#pragma unroll 1
  for (int tile = warp; tile < tiles; tile += kMathThreads / 32) {
    const int key = base + tile * 16 + group;
    const uint16_t* const from_x = key >= start ? scratch.new_keys[min(key - start, kRows - 1)] : scratch.late_keys[group];
    const uint16_t* const from_y = key + 8 >= start ? scratch.new_keys[min(key + 8 - start, kRows - 1)] : scratch.late_keys[group + 8];
    const bool late_x = key >= start || tile >= 8, late_y = key + 8 >= start || tile >= 8;
    float c[4] = {}, d[4] = {};
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      if (late_x) x[i] = *reinterpret_cast<const uint4*>(from_x + i * 32 + part * 8);
      if (late_y) y[i] = *reinterpret_cast<const uint4*>(from_y + i * 32 + part * 8);
      const uint4 high = *reinterpret_cast<const uint4*>(&b.shared.query[0][group][i * 32 + part * 8]);
      const uint4 low = *reinterpret_cast<const uint4*>(&b.shared.query[1][group][i * 32 + part * 8]);
      product_16x8(c, x[i].x, y[i].x, x[i].y, y[i].y, high.x, high.y);
      product_16x8(d, x[i].x, y[i].x, x[i].y, y[i].y, low.x, low.y);
      product_16x8(c, x[i].z, y[i].z, x[i].w, y[i].w, high.z, high.w);
      product_16x8(d, x[i].z, y[i].z, x[i].w, y[i].w, low.z, low.w);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int at = start + part * 2 + j;  // the row's position
      float* to = b.shared.scratch + (part * 2 + j) * kScoreStride + tile * 16 + group;
      const bool live = part * 2 + j < rows;
      to[0] = live && key > at - args.window - defect(Defect::kWindow) && key <= at ? (c[j] + (defect(Defect::kQueryLow) ? 0.0f : d[j])) * scale : -INFINITY;
      to[8] = live && key + 8 > at - args.window && key + 8 <= at ? (c[j + 2] + d[j + 2]) * scale : -INFINITY;
    }
  }
  math_sync();

  // Softmax of row `warp`; the weights take the scores' places, high and low BF16 parts in one word. A lane keeps to positions with its own remainder of 32.
  float total;
  {
    const int first = base & ~31, count = tiles * 16;
    float* s = b.shared.scratch + row * kScoreStride;
    float score[6], top = -INFINITY;
#pragma unroll
    for (int i = 0; i < 6; ++i) {
      const int at = first + i * 32 + lane - base;
      score[i] = at >= 0 && at < count ? s[at] : -INFINITY;
      top = fmaxf(top, score[i]);
    }
    top = warp_max(top);
    if (args.sinks != nullptr) top = fmaxf(top, __ldg(args.sinks + head));
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 6; ++i) {
      const int at = first + i * 32 + lane - base;
      const float weight = score[i] > -INFINITY ? __expf(score[i] - top) : 0.0f;
      sum += weight;
      const uint16_t high = bf16_of(weight);
      if (at >= 0 && at < count) reinterpret_cast<uint32_t*>(s)[at] = static_cast<uint32_t>(high) | static_cast<uint32_t>(bf16_of(weight - bf16_value(high))) << 16;
    }
    total = warp_sum(sum);
    if (args.sinks != nullptr && !defect(Defect::kSink)) total += __expf(__ldg(args.sinks + head) - top);
  }
  math_sync();

  // Weighted values: dimensions 16 warp .. + 15, all rows.
  float high[4] = {}, low[4] = {};
#pragma unroll 2
  for (int tile = 0; tile < tiles; ++tile) {
    uint32_t a[4];
    load_transposed(a, scratch.value(tile * 16 + lane / 16 * 8 + lane % 8, warp * 2 + lane / 8 % 2));
    const uint32_t* weights = reinterpret_cast<const uint32_t*>(b.shared.scratch) + group * kScoreStride + tile * 16 + part * 2;
    const uint2 w0 = *reinterpret_cast<const uint2*>(weights), w8 = *reinterpret_cast<const uint2*>(weights + 8);
    product_16x8(high, a[0], a[1], a[2], a[3], __byte_perm(w0.x, w0.y, 0x5410), __byte_perm(w8.x, w8.y, 0x5410));
    product_16x8(low, a[0], a[1], a[2], a[3], __byte_perm(w0.x, w0.y, 0x7632), __byte_perm(w8.x, w8.y, 0x7632));
  }
  float* out = reinterpret_cast<float*>(b.shared.query);  // [8][128]; queries are read
#pragma unroll
  for (int j = 0; j < 4; ++j) out[(part * 2 + j % 2) * kValueDim + warp * 16 + group + j / 2 * 8] = high[j] + low[j];
  math_sync();
  const float4 sums = *reinterpret_cast<const float4*>(out + row * kValueDim + lane * 4);
  attention_out(args.out, row, head, row < rows ? sums * __fdividef(1.0f, total) : float4{});
}

}  // namespace kilotoken::stack
