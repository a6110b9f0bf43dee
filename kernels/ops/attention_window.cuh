// Attention of layers with a short window, from the projection's sums to the output projection's input in one operation: a block a head. Old keys and values
// come through the page ring, brought by the fetching warp while the projection is still multiplied; then sums, norm, RoPE, scores, softmax and weighted values
// follow without leaving the block. Every head of a group makes the step's keys and values for itself; the first of them also writes the cache.
// A score does not depend on where its key lies in a tile, and the sums over keys run over absolute positions, so a row has the same bits alone and among eight.
#pragma once

#include "attention.cuh"
#include "products.cuh"

namespace kilotoken::stack {

inline constexpr int kWindowKeyDim = 192;
inline constexpr int kMostWindow = 128;
inline constexpr int kWindowTiles = 10;  // of sixteen positions at absolute places: 127 old ones, up to 15 before them, 8 new ones
inline constexpr int kScoreStride = kWindowTiles * 16 + 4;
// Rows of old keys and of old values in a page.
inline constexpr int kKeysAPage = kPageBytes / (kWindowKeyDim * 2), kValuesAPage = kPageBytes / (kValueDim * 2);
inline constexpr int kKeyPages = (kMostWindow - 1 + kKeysAPage - 1) / kKeysAPage, kValuePages = (kMostWindow - 1 + kValuesAPage - 1) / kValuesAPage;
static_assert(kKeyPages + kValuePages < kPages);

// What the step adds. Queries lie as the products read them: for each sixteen dimensions and quarter of a row of the product two words of high and two of
// low parts, by turns, so that high parts are rows 0 .. 7 of the product and low parts rows 8 .. 15. Strides spread eight rows over all banks.
struct WindowScratch {
  uint4 query[kRows][kWindowKeyDim / 4 + 4];
  uint16_t keys[kRows][kQueryStride];
  uint16_t values[kRows][kValueDim];  // sixteen bytes j at window_chunk
  float out[kRows][kValueDim];
};
static_assert(sizeof(WindowScratch) <= kInputBytes && kRows * kScoreStride <= 16 * kValueDim);
// Where the four dimensions from `d` on lie: sixteen bytes of a key are four words of a lane, and a product takes two of them.
__device__ __forceinline__ int query_place(int d) { return (d / 32 * 2 + d % 8 / 4) * 4 + d % 32 / 8; }

// Positions that the step's rows see and that earlier steps have made: [first, start).
__device__ __forceinline__ int first_of_window(const AttendWindowArgs& args, int start) { return max(start + 1 - args.window, 0); }

// The fetching warp's part; one lane.
__device__ inline void window_fetch(const AttendWindowArgs& args, Block& b, int head) {
  const int start = static_cast<int>(b.shared.start), kv = head / args.by_group;
  ptx::fence_async_global();  // earlier steps wrote the cache by ordinary stores
  const auto fetch = [&](const uint16_t* from, int width, int a_page) {
    from += static_cast<size_t>(kv) * args.max_context * width;
#pragma unroll 1
    for (int at = first_of_window(args, start); at < start; at += a_page) {
      const uint32_t bytes = static_cast<uint32_t>(min(a_page, start - at)) * width * 2;
      uint8_t* to = claim_page(b, bytes);
      ptx::bulk_copy(to, from + static_cast<size_t>(at) * width, bytes, &b.shared.page_full[b.page.place]);
      b.page.next();
    }
  };
  fetch(args.keys, kWindowKeyDim, kKeysAPage);
  fetch(args.values, kValueDim, kValuesAPage);
}

__device__ __forceinline__ void attend_window(const AttendWindowArgs& args, Block& b, int head) {
  constexpr int kBlocks = kWindowKeyDim / 32;
  const int kv = head / args.by_group;
  const int thread = b.thread, lane = thread % 32, warp = thread / 32, group = lane / 4, part = lane % 4;
  const int rows = static_cast<int>(b.shared.rows), start = static_cast<int>(b.shared.start);
  const int row = warp, position = start + row;
  const int first = first_of_window(args, start), base = first & ~15, end = start + rows, tiles = (end - base + 15) / 16, old = start - first;
  WindowScratch& scratch = *reinterpret_cast<WindowScratch*>(b.shared.input);

  float sink;
  // Row `warp` of q, k and v: a lane has four values of each of four tiles, the lower half of the warp q0, q2, k1, v0, the upper q1, k0, k2, v1.
  {
    const int half = lane / 16, in_tile = lane % 16 * 4;
    const float4* const turns = reinterpret_cast<const float4*>(args.turns + static_cast<size_t>(position) * kRotary + lane % 8 * 8);
    const float4 turn[2] = {__ldg(turns), __ldg(turns + 1)};  // cosine and sine, of four frequencies
    const Squares squares = norm_squares(args.norm, row);
    sink = args.sinks != nullptr ? __ldg(args.sinks + head) : -INFINITY;
    constexpr int kKeyTiles = kWindowKeyDim / kTileRows, kValueTiles = kValueDim / kTileRows;
    const int q = head * kKeyTiles, k = (args.q_heads + kv) * kKeyTiles, v = (args.q_heads + args.kv_heads) * kKeyTiles + kv * kValueTiles;
    const int tile[4] = {q + half, half == 0 ? q + 2 : k, k + 1 + half, v + half};
    float4 sum[4];
    sum_whole_tiles(args.parts, b, tile, row * kTileRows + in_tile, sum);
    const float factor = norm_factor(args.norm, squares);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = sum[i] * (i < 3 || defect(Defect::kValueScale) ? factor : factor * args.value_scale);
    // RoPE on q0 and k0, each in its half: dimension d turns with d + 32.
    {
      float4 x = half == 0 ? sum[0] : sum[1];
      float4 other = make_float4(__shfl_xor_sync(~0u, x.x, 8), __shfl_xor_sync(~0u, x.y, 8), __shfl_xor_sync(~0u, x.z, 8), __shfl_xor_sync(~0u, x.w, 8));
      if (lane % 16 < 8) other = other * -1.0f;
      x = make_float4(x.x * turn[0].x + other.x * turn[0].y, x.y * turn[0].z + other.y * turn[0].w, x.z * turn[1].x + other.z * turn[1].y,
                      x.w * turn[1].z + other.w * turn[1].w);
      if (half == 0) sum[0] = x;
      else sum[1] = x;
    }
    const bool writes = (head == 0 || (head - 1) / args.by_group != kv) && row < rows;
    uint16_t* const keys = args.keys + (static_cast<size_t>(kv) * args.max_context + position) * kWindowKeyDim;
    uint16_t* const values = args.values + (static_cast<size_t>(kv) * args.max_context + position) * kValueDim;
    uint2 word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) word[i] = make_uint2(bf16_words(sum[i].x, sum[i].y), bf16_words(sum[i].z, sum[i].w));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (i == 1 && half == 1) break;
      scratch.query[row][query_place((i == 0 ? half : 2) * kTileRows + in_tile)] =
          make_uint4(word[i].x, bf16_words(sum[i].x - bf16_value(word[i].x & 0xffffu), sum[i].y - bf16_value(word[i].x >> 16)), word[i].y,
                     bf16_words(sum[i].z - bf16_value(word[i].y & 0xffffu), sum[i].w - bf16_value(word[i].y >> 16)));
    }
#pragma unroll
    for (int i = 1; i < 3; ++i) {
      if (i == 1 && half == 0) continue;
      const int at = i == 1 ? in_tile : (1 + half) * kTileRows + in_tile;
      *reinterpret_cast<uint2*>(&scratch.keys[row][at]) = word[i];
      if (writes) *reinterpret_cast<uint2*>(keys + at) = word[i];
    }
    const int at = window_chunk(position, half * 8 + lane % 16 / 2) * 8 + lane % 2 * 4;
    *reinterpret_cast<uint2*>(&scratch.values[row][at]) = row < rows ? word[3] : uint2{};  // of a row that is not there: any number, as its weight is zero
    if (writes) *reinterpret_cast<uint2*>(values + at) = word[3];
  }

  // Pages of old keys, then of old values. Nobody reads behind the number of old positions.
  Turn<kPages> turn = b.page;
  const uint8_t *key_page[kKeyPages], *value_page[kValuePages];
#pragma unroll
  for (int i = 0; i < kKeyPages; ++i) {
    key_page[i] = b.shared.pages[turn.place];
    if (i * kKeysAPage < old) {
      b.wait(&b.shared.page_full[turn.place], turn.phase, ptx::Wait::kRingFull);
      turn.next();
    }
  }
  math_sync();

  // Scores: [8][kScoreStride], by position from `base` on. A product takes eight keys: a warp two eights of old ones, the last warp the new ones as well.
  const float scale = rsqrtf(static_cast<float>(kWindowKeyDim));
  const auto score = [&](const float (&c)[4], int key, int count) {  // of keys `key` .. key + count - 1, positions; the lane's two
    const int at = start + group;
    float* const to = b.shared.scratch + group * kScoreStride - base;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int mine = key + part * 2 + j;
      const bool seen = group < rows && mine > at - args.window - defect(Defect::kWindow) && mine <= at;
      if (part * 2 + j < count) to[mine] = seen ? (c[j] + (defect(Defect::kQueryLow) ? 0.0f : c[2 + j])) * scale : -INFINITY;
    }
  };
  const uint4* const query = scratch.query[group] + part;
  if (warp * 8 < old) {
    const uint16_t* from[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int at = min((warp + j * 8) * 8 + group, old - 1), page = at < kKeysAPage ? 0 : at < 2 * kKeysAPage ? 1 : 2;
      from[j] = reinterpret_cast<const uint16_t*>(page == 0 ? key_page[0] : page == 1 ? key_page[1] : key_page[2]) + (at - page * kKeysAPage) * kWindowKeyDim + part * 8;
    }
    float c[2][4] = {};
#pragma unroll 2
    for (int i = 0; i < kBlocks; ++i) {
      const uint4 q[2] = {query[i * 8], query[i * 8 + 4]};
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const uint4 x = *reinterpret_cast<const uint4*>(from[j] + i * 32);
        product_16x8(c[j], q[0].x, q[0].y, q[0].z, q[0].w, x.x, x.y);
        product_16x8(c[j], q[1].x, q[1].y, q[1].z, q[1].w, x.z, x.w);
      }
    }
    score(c[0], first + warp * 8, old - warp * 8);
    score(c[1], first + (warp + 8) * 8, old - (warp + 8) * 8);
  }
  if (warp == kMathThreads / 32 - 1) {
    float c[4] = {};
#pragma unroll 2
    for (int i = 0; i < kBlocks; ++i) {
      const uint4 q[2] = {query[i * 8], query[i * 8 + 4]}, x = *reinterpret_cast<const uint4*>(&scratch.keys[group][i * 32 + part * 8]);
      product_16x8(c, q[0].x, q[0].y, q[0].z, q[0].w, x.x, x.y);
      product_16x8(c, q[1].x, q[1].y, q[1].z, q[1].w, x.z, x.w);
    }
    score(c, start, rows);
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kKeyPages; ++i) {
    if (i * kKeysAPage >= old) break;
    if (lane == 0) ptx::barrier_arrive(&b.shared.page_empty[b.page.place]);
    b.page.next();
  }
  math_sync();

  // Softmax of row `warp`; the weights take the scores' places, high and low BF16 parts in one word. A lane keeps to positions with its own remainder of 32.
  float total;
  {
    const int from = (base & ~31) - base;
    float* s = b.shared.scratch + row * kScoreStride;
    const auto score = [&](int at) { return at >= first - base && at < end - base ? s[at] : -INFINITY; };
    float top = -INFINITY;
#pragma unroll 2
    for (int at = from + lane; at < end - base; at += 32) top = fmaxf(top, score(at));
    top = fmaxf(warp_max(top), sink);
    float sum = 0.0f;
#pragma unroll 2
    for (int at = from + lane; at < tiles * 16; at += 32) {
      const float x = score(at), weight = x > -INFINITY ? __expf(x - top) : 0.0f;
      sum += weight;
      const uint16_t high = bf16_of(weight);
      if (at >= 0) reinterpret_cast<uint32_t*>(s)[at] = static_cast<uint32_t>(high) | static_cast<uint32_t>(bf16_of(weight - bf16_value(high))) << 16;
    }
    total = warp_sum(sum);
    if (!defect(Defect::kSink)) total += __expf(sink - top);
  }
#pragma unroll
  for (int i = 0; i < kValuePages; ++i) {
    value_page[i] = b.shared.pages[turn.place];
    if (i * kValuesAPage < old) {
      b.wait(&b.shared.page_full[turn.place], turn.phase, ptx::Wait::kRingFull);
      turn.next();
    }
  }
  math_sync();

  // Weighted values: dimensions 16 warp .. + 15, all rows. Positions that no row sees have the weight zero; what stands in for them must be numbers, and is.
  float high[4] = {}, low[4] = {};
#pragma unroll 2
  for (int tile = 0; tile < tiles; ++tile) {
    const int at = base + tile * 16 + lane / 16 * 8 + lane % 8, here = max(at - first, 0);
    const uint16_t* const values = at >= start || old == 0 ? scratch.values[min(max(at - start, 0), kRows - 1)]
                                   : here < kValuesAPage   ? reinterpret_cast<const uint16_t*>(value_page[0]) + here * kValueDim
                                                           : reinterpret_cast<const uint16_t*>(value_page[1]) + (here - kValuesAPage) * kValueDim;
    uint32_t a[4];
    load_transposed(a, values + window_chunk(at, warp * 2 + lane / 8 % 2) * 8);
    const uint32_t* weights = reinterpret_cast<const uint32_t*>(b.shared.scratch) + group * kScoreStride + tile * 16 + part * 2;
    const uint2 w0 = *reinterpret_cast<const uint2*>(weights), w8 = *reinterpret_cast<const uint2*>(weights + 8);
    product_16x8(high, a[0], a[1], a[2], a[3], __byte_perm(w0.x, w0.y, 0x5410), __byte_perm(w8.x, w8.y, 0x5410));
    product_16x8(low, a[0], a[1], a[2], a[3], __byte_perm(w0.x, w0.y, 0x7632), __byte_perm(w8.x, w8.y, 0x7632));
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kValuePages; ++i) {
    if (i * kValuesAPage >= old) break;
    if (lane == 0) ptx::barrier_arrive(&b.shared.page_empty[b.page.place]);
    b.page.next();
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) scratch.out[part * 2 + j % 2][warp * 16 + group + j / 2 * 8] = high[j] + low[j];
  math_sync();
  const float4 sums = *reinterpret_cast<const float4*>(&scratch.out[row][lane * 4]);
  attention_out(args.out, row, head, lane, row < rows ? sums * __fdividef(1.0f, total) : float4{});
}

}  // namespace kilotoken::stack
