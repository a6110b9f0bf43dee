// The streaming matrix products: a linear (E4M3 or BF16 weights), and the expert pair (MXFP4). Two warpgroups share every page, each taking one half of
// its k, so that who multiplies what never depends on timing; the finishing warps add the two halves.
// Output rows are M, the eight tokens N = 8, always: a column of the result depends on its own token only.
#pragma once

#include "block.cuh"

namespace kilotoken::stack {

// --- between math and finishing warps

__device__ __forceinline__ void hand_over(Block& b, const float (&acc)[4]) {
  b.wait(&b.shared.finish_empty[b.slot.place], b.slot.phase ^ 1, ptx::Wait::kEpilogueEmpty);
  b.shared.finish[b.slot.place][threadIdx.x / 128][threadIdx.x % 128] = make_float4(acc[0], acc[1], acc[2], acc[3]);
  ptx::barrier_arrive(&b.shared.finish_full[b.slot.place]);
  b.slot.next();
}

// The sums of both warpgroups' halves. A finishing thread stands for two threads of the accumulator; for i = 0, 1:
struct Sums {
  float4 of[2];  // rows 16 (w + 2 i) + l/4 (x, y) and + 8 (z, w) of the tile, columns 2 (l % 4), + 1; w: finishing warp 0 or 1
};

__device__ __forceinline__ Sums take_over(Block& b) {
  b.wait(&b.shared.finish_full[b.slot.place], b.slot.phase, ptx::Wait::kEpilogueFull);
  Sums sums;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int thread = threadIdx.x % kFinishThreads + i * kFinishThreads;
    const float4 x = b.shared.finish[b.slot.place][0][thread], y = b.shared.finish[b.slot.place][1][thread];
    sums.of[i] = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
  }
  ptx::barrier_arrive(&b.shared.finish_empty[b.slot.place]);
  b.slot.next();
  return sums;
}

__device__ __forceinline__ void store_part(float* part, const Sums& sums) {
  const int warp = threadIdx.x % kFinishThreads / 32, lane = threadIdx.x % 32, column = lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = (warp + 2 * i) * 16 + lane / 4;
    part[column * kTileRows + row] = sums.of[i].x;
    part[(column + 1) * kTileRows + row] = sums.of[i].y;
    part[column * kTileRows + row + 8] = sums.of[i].z;
    part[(column + 1) * kTileRows + row + 8] = sums.of[i].w;
  }
}

// One lane of the math warps; the others follow through input_full.
__device__ __forceinline__ void fetch_input(Block& b, const void* a, uint32_t a_bytes, void* a_to, const void* c, uint32_t c_bytes,
                                            void* c_to) {
  if (threadIdx.x == 0) {
    ptx::fence_async_global();
    ptx::barrier_expect(&b.shared.input_full, a_bytes + c_bytes);
    ptx::bulk_copy(a_to, a, a_bytes, &b.shared.input_full);
    if (c_bytes != 0) ptx::bulk_copy(c_to, c, c_bytes, &b.shared.input_full);
  }
}

__device__ __forceinline__ void await_input(Block& b) {
  b.wait(&b.shared.input_full, b.input_phase, ptx::Wait::kActivations);
  b.input_phase ^= 1;
}

// --- a page of the ring

__device__ __forceinline__ const uint8_t* await_page(Block& b) {
  b.wait(&b.shared.page_full[b.page.place], b.page.phase, ptx::Wait::kRingFull);
  return b.shared.pages[b.page.place];
}

__device__ __forceinline__ void release_page(Block& b) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) ptx::barrier_arrive(&b.shared.page_empty[b.page.place]);
  b.page.next();
}

// One lane.
__device__ __forceinline__ uint8_t* claim_page(Block& b, uint32_t bytes) {
  b.wait(&b.shared.page_empty[b.page.place], b.page.phase ^ 1, ptx::Wait::kRingEmpty);
  ptx::barrier_expect(&b.shared.page_full[b.page.place], bytes);
  return b.shared.pages[b.page.place];
}

// --- linear

// One warpgroup's half of a page: 128 of 256 k as E4M3, or 64 of 128 k as BF16. Either is eight 16-byte columns.
template <Format kFormat>
__device__ __forceinline__ void multiply_page(Block& b, const uint8_t* page, int page_of_tile, float (&acc)[4]) {
  const int group = threadIdx.x / 128;
  const uint32_t in_input = page_of_tile * 2048 + group * 1024;
  const uint64_t a = ptx::descriptor(ptx::shared_address(page) + group * 8192, 1024, 128);
  const uint64_t x = ptx::descriptor(ptx::shared_address(b.shared.input) + in_input, 128, 128);
  if constexpr (kFormat == Format::kE4m3) {
    const float2 weight_scale = reinterpret_cast<const float2*>(page + kCodeBytes)[group];
    const float2 scale =
        *reinterpret_cast<const float2*>(&b.shared.input_scales[(page_of_tile * 2 + group) * kRows + threadIdx.x % 4 * 2]);
    float d[4][4];
    ptx::products_begin();
#pragma unroll
    for (int i = 0; i < 4; ++i) ptx::product_e4m3(d[i], a + i * (2048 >> 4), x + i * (256 >> 4));
    ptx::products_commit();
    ptx::products_wait<0>();
    const float factor[4] = {weight_scale.x * scale.x, weight_scale.x * scale.y, weight_scale.y * scale.x, weight_scale.y * scale.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[i] = fmaf(((d[0][i] + d[1][i]) + d[2][i]) + d[3][i], factor[i], acc[i]);
  } else {
    const uint64_t y = ptx::descriptor(ptx::shared_address(b.shared.input) + kInputBytes / 2 + in_input, 128, 128);
    float high[4], low[4];
    ptx::products_begin();
    ptx::product_bf16<false>(high, a, x);
    ptx::product_bf16<false>(low, a, y);
#pragma unroll
    for (int i = 1; i < 4; ++i) {
      ptx::product_bf16<true>(high, a + i * (2048 >> 4), x + i * (256 >> 4));
      ptx::product_bf16<true>(low, a + i * (2048 >> 4), y + i * (256 >> 4));
    }
    ptx::products_commit();
    ptx::products_wait<0>();
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[i] += high[i] + low[i];
  }
}

template <Format kFormat>
__device__ void linear_multiply(const LinearArgs& args, Block& b) {
  const Tiling& t = args.tiling;
  const Share share = share_of(t, b.index(), b.count());
  if (share.begin == share.end) return;
  // The window of k that the block's units read: one slice, or a few consecutive ones.
  const int first = share.begin / t.tiles, slices = (share.end - 1) / t.tiles + 1 - first;
  const int width = t.pages * page_k(kFormat);
  const uint8_t* input = static_cast<const uint8_t*>(args.input);
  const uint8_t* input2 = static_cast<const uint8_t*>(args.input2);
  if constexpr (kFormat == Format::kE4m3)
    fetch_input(b, input + first * width * kRows, slices * width * kRows, b.shared.input, input2 + first * (width / kQuantGroup) * kRows * 4,
                slices * (width / kQuantGroup) * kRows * 4, b.shared.input_scales);
  else
    fetch_input(b, input + first * width * kRows * 2, slices * width * kRows * 2, b.shared.input, input2 + first * width * kRows * 2,
                slices * width * kRows * 2, b.shared.input + kInputBytes / 2);
  await_input(b);
  int tile = share.begin % t.tiles, first_page = 0;
#pragma unroll 1
  for (int unit = share.begin; unit < share.end; ++unit) {
    float acc[4] = {};
#pragma unroll 1
    for (int page = 0; page < t.pages; ++page) {
      multiply_page<kFormat>(b, await_page(b), first_page + page, acc);
      release_page(b);
    }
    hand_over(b, acc);
    if (++tile == t.tiles) tile = 0, first_page += t.pages;
  }
}

__device__ inline void linear_finish(const LinearArgs& args, Block& b) {
  const Share share = share_of(args.tiling, b.index(), b.count());
#pragma unroll 1
  for (int unit = share.begin; unit < share.end; ++unit) store_part(args.parts + static_cast<size_t>(unit) * kPartFloats, take_over(b));
}

// One lane. The block's share is one range of memory.
__device__ inline void linear_fetch(const LinearArgs& args, Block& b, uint64_t policy) {
  const Share share = share_of(args.tiling, b.index(), b.count());
  const uint32_t bytes = page_bytes(args.format);
  const uint8_t* from = args.pages + static_cast<size_t>(share.begin) * args.tiling.pages * bytes;
  const uint8_t* const end = args.pages + static_cast<size_t>(share.end) * args.tiling.pages * bytes;
#pragma unroll 1
  for (; from < end; from += bytes) {
    uint8_t* to = claim_page(b, bytes);
    ptx::bulk_copy(to, from, bytes, &b.shared.page_full[b.page.place], policy);
    b.page.next();
  }
}

// --- experts

// Experts that any row chose: word `lane` of their set. One warp.
__device__ __forceinline__ uint32_t chosen_experts(const uint32_t* masks, int experts) {
  const int lane = threadIdx.x % 32, words = (experts + 31) / 32;
  uint32_t any = 0;
  if (lane < words) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) any |= __ldcg(masks + row * (kMaxExperts / 32) + lane);
  }
  return any;
}
__device__ __forceinline__ int count_experts(const uint32_t* masks, int experts) {
  return static_cast<int>(__reduce_add_sync(~0u, static_cast<uint32_t>(__popc(chosen_experts(masks, experts)))));
}

// Their ids, ascending, into `list`; returns their number. One warp.
__device__ __forceinline__ int list_experts(const uint32_t* masks, int experts, uint16_t* list) {
  const int lane = threadIdx.x % 32;
  uint32_t any = chosen_experts(masks, experts);
  int before = __popc(any);
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0u, before, step);
    if (lane >= step) before += other;
  }
  const int count = __shfl_sync(~0u, before, 31);
  before -= __popc(any);
#pragma unroll 1
  while (any != 0) {
    list[before++] = static_cast<uint16_t>(lane * 32 + __ffs(any) - 1);
    any &= any - 1;
  }
  return count;
}

struct Range {
  int begin, end;
};

// Tiles of the chosen experts that this block makes, in order of rank.
__device__ __forceinline__ Range up_share(const ExpertsUpArgs& args, const Block& b, int experts) {
  const int all = experts * args.tiles;
  return {b.index() * all / b.count(), (b.index() + 1) * all / b.count()};
}

inline constexpr uint32_t kFirstMask = 0x9c9c9c9cu;

__device__ __forceinline__ uint32_t first_codes(uint32_t word) { return word & kFirstMask; }
__device__ __forceinline__ uint32_t second_codes(uint32_t word) {
  return ((word << 2) & 0x8c8c8c8cu) | ((word >> 2) & 0x10101010u);
}
// Scale byte `i` of a word as binary32.
template <int i>
__device__ __forceinline__ float scale_byte(uint32_t word) {
  if constexpr (i == 3) return __uint_as_float((word >> 1) & 0x7f800000u);
  else return __uint_as_float((word << (23 - 8 * i)) & 0x7f800000u);
}

// 128 of k: four products in flight, each scaled by its own power of two, then all by the tokens' activation scales.
struct Quarter {
  uint32_t a[4][4];
  float d[4][4];
};

__device__ __forceinline__ void unpack(const uint8_t* fragments, Quarter& q) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const uint4 w = *reinterpret_cast<const uint4*>(fragments + j * 2048);
    q.a[2 * j][0] = first_codes(w.x), q.a[2 * j][1] = second_codes(w.x);
    q.a[2 * j][2] = first_codes(w.y), q.a[2 * j][3] = second_codes(w.y);
    q.a[2 * j + 1][0] = first_codes(w.z), q.a[2 * j + 1][1] = second_codes(w.z);
    q.a[2 * j + 1][2] = first_codes(w.w), q.a[2 * j + 1][3] = second_codes(w.w);
  }
}

__device__ __forceinline__ void multiply(Quarter& q, uint64_t x) {
  ptx::products_begin();
#pragma unroll
  for (int i = 0; i < 4; ++i) ptx::product_e4m3(q.d[i], q.a[i], x + i * (256 >> 4));
  ptx::products_commit();
}

__device__ __forceinline__ void promote(const Quarter& q, uint32_t scales0, uint32_t scales8, float2 token, float (&acc)[4]) {
  const float s0[4] = {scale_byte<0>(scales0), scale_byte<1>(scales0), scale_byte<2>(scales0), scale_byte<3>(scales0)};
  const float s8[4] = {scale_byte<0>(scales8), scale_byte<1>(scales8), scale_byte<2>(scales8), scale_byte<3>(scales8)};
  float t[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* s = i < 2 ? s0 : s8;
    t[i] = q.d[0][i] * s[0];
#pragma unroll
    for (int j = 1; j < 4; ++j) t[i] = fmaf(q.d[j][i], s[j], t[i]);
  }
  acc[0] = fmaf(t[0], token.x, acc[0]);
  acc[1] = fmaf(t[1], token.y, acc[1]);
  acc[2] = fmaf(t[2], token.x, acc[2]);
  acc[3] = fmaf(t[3], token.y, acc[3]);
}

// One warpgroup's half of an up page of kPageK columns.
template <int kPageK>
__device__ __forceinline__ void multiply_up_page(Block& b, const uint8_t* page, int page_of_tile, float (&acc)[4]) {
  constexpr int kQuarters = kPageK / 256;
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const uint8_t* fragments = page + group * (16 * kPageK) + warp * 512 + lane * 16;
  const uint8_t* scales = page + 32 * kPageK + (group * 64 + warp * 16 + lane / 4) * (kPageK / 64);
  const int first_k = page_of_tile * kPageK + group * (kPageK / 2);
  const uint64_t x = ptx::descriptor(ptx::shared_address(b.shared.input) + first_k * kRows, 128, 128);
  const float2* token = reinterpret_cast<const float2*>(&b.shared.input_scales[first_k / kQuantGroup * kRows + lane % 4 * 2]);
  if constexpr (kQuarters == 2) {
    const uint2 s0 = *reinterpret_cast<const uint2*>(scales);
    const uint2 s8 = *reinterpret_cast<const uint2*>(scales + 8 * (kPageK / 64));
    Quarter p, q;
    unpack(fragments, p);
    multiply(p, x);
    unpack(fragments + 4096, q);
    multiply(q, x + (1024 >> 4));
    ptx::products_wait<1>();
    promote(p, s0.x, s8.x, token[0], acc);
    ptx::products_wait<0>();
    promote(q, s0.y, s8.y, token[kRows / 2], acc);
  } else {
    const uint32_t s0 = *reinterpret_cast<const uint32_t*>(scales);
    const uint32_t s8 = *reinterpret_cast<const uint32_t*>(scales + 8 * (kPageK / 64));
    Quarter p;
    unpack(fragments, p);
    multiply(p, x);
    ptx::products_wait<0>();
    promote(p, s0, s8, token[0], acc);
  }
}

// The math warps have seen the instruction before done; from here on the finishing warps may read what it made.
__device__ __forceinline__ void begin_together() { ptx::group_sync<3, kMathThreads + kFinishThreads>(); }

template <int kPageK>
__device__ void up_multiply(const ExpertsUpArgs& args, Block& b) {
  begin_together();
  const int k = args.pages_per_tile * kPageK;
  fetch_input(b, args.codes, k * kRows, b.shared.input, args.scales, k / kQuantGroup * kRows * 4, b.shared.input_scales);
  const int count = count_experts(args.masks, args.experts);
  if (threadIdx.x == 0 && b.index() == 0) b.state->touched[args.mixture_layer] = static_cast<uint32_t>(count);
  await_input(b);
  const Range share = up_share(args, b, count);
#pragma unroll 1
  for (int tile = share.begin; tile < share.end; ++tile) {
    float acc[4] = {};
#pragma unroll 1
    for (int page = 0; page < args.pages_per_tile; ++page) {
      multiply_up_page<kPageK>(b, await_page(b), page, acc);
      release_page(b);
    }
    hand_over(b, acc);
  }
}

// silu(gate) * up, to E4M3 with a scale for each token and 32 of h; the router's weight and the 2^6 of the code expansion go into the scale.
__device__ inline void up_finish(const ExpertsUpArgs& args, Block& b) {
  const int warp = threadIdx.x % kFinishThreads / 32, lane = threadIdx.x % 32, column = lane % 4 * 2;
  // Meanwhile the math warps multiply: who the experts are, how much each row gives them, and the norm's factors.
  const int warps = kFinishThreads / 32;
  begin_together();
  if (warp == 0) b.shared.expert_count = list_experts(args.masks, args.experts, b.shared.experts);
#pragma unroll 1
  for (int row = warp; row < kRows; row += warps) {
    const float factor = norm_factor(args.norm, norm_squares(args.norm, row));
    if (lane == 0) b.shared.factor[row] = factor;
  }
  finish_sync();
  const int count = b.shared.expert_count;
#pragma unroll 4
  for (int i = threadIdx.x % kFinishThreads; i < count * kRows; i += kFinishThreads) {
    const int row = i % kRows, expert = b.shared.experts[i / kRows];
    const bool chosen = __ldcg(args.masks + row * (kMaxExperts / 32) + expert / 32) >> (expert % 32) & 1u;
    b.shared.expert_weight[i / kRows][row] = chosen ? __ldcg(args.weights + row * args.experts + expert) : 0.0f;
  }
  finish_sync();
  const Range share = up_share(args, b, count);
#pragma unroll 1
  for (int tile = share.begin; tile < share.end; ++tile) {
    const Sums sums = take_over(b);
    const int rank = tile / args.tiles, of_expert = tile % args.tiles;
    float h[2][2];  // [i][column]
    float largest[2] = {};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float factor = b.shared.factor[column + c] * 64.0f;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        h[i][c] = swiglu_value((c == 0 ? sums.of[i].x : sums.of[i].y) * factor, (c == 0 ? sums.of[i].z : sums.of[i].w) * factor);
        largest[c] = fmaxf(largest[c], fabsf(h[i][c]));
      }
#pragma unroll
      for (int stride = 4; stride < 32; stride *= 2) largest[c] = fmaxf(largest[c], __shfl_xor_sync(~0u, largest[c], stride));
    }
    if (lane < 4) b.shared.finish_scratch[warp][column] = largest[0], b.shared.finish_scratch[warp][column + 1] = largest[1];
    finish_sync();
    Quantiser q[2];
#pragma unroll
    for (int c = 0; c < 2; ++c)
      q[c] = quantiser(fmaxf(b.shared.finish_scratch[0][column + c], b.shared.finish_scratch[1][column + c]));
    uint8_t* slice = args.h + (static_cast<size_t>(of_expert / 2) * kMaxStepExperts + rank) * kDownInputBytes;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int k = of_expert % 2 * kUpperHalf + (warp + 2 * i) * 8 + lane / 4;
      const uint16_t codes = e4m3_pair(h[i][0] * q[0].inverse, h[i][1] * q[1].inverse);
      slice[down_input_offset(column, k)] = static_cast<uint8_t>(codes);
      slice[down_input_offset(column + 1, k)] = static_cast<uint8_t>(codes >> 8);
    }
    if (warp == 0 && lane < 4) {
      float* scales = reinterpret_cast<float*>(slice + kDownK * kRows) + of_expert % 2 * kRows;
#pragma unroll
      for (int c = 0; c < 2; ++c) scales[column + c] = q[c].scale * 64.0f * b.shared.expert_weight[rank][column + c];
    }
    finish_sync();  // finish_scratch is read
  }
}

// The fetching warp; experts are known.
__device__ inline void up_fetch(const ExpertsUpArgs& args, Block& b, uint64_t policy, int count) {
  const Range share = up_share(args, b, count);
  const uint32_t bytes = up_page_bytes(args.page_k);
  if (threadIdx.x % 32 == 0) {
    int rank = share.begin / args.tiles, of_expert = share.begin % args.tiles;
#pragma unroll 1
    for (int tile = share.begin; tile < share.end; ++tile) {
      const uint8_t* from =
          args.pages + (static_cast<size_t>(b.shared.fetch_experts[rank]) * args.tiles + of_expert) * args.pages_per_tile * bytes;
#pragma unroll 1
      for (int page = 0; page < args.pages_per_tile; ++page, from += bytes) {
        uint8_t* to = claim_page(b, bytes);
        ptx::bulk_copy(to, from, bytes, &b.shared.page_full[b.page.place], policy);
        b.page.next();
      }
      if (++of_expert == args.tiles) of_expert = 0, ++rank;
    }
  }
  b.page.place = __shfl_sync(~0u, b.page.place, 0);
  b.page.phase = __shfl_sync(~0u, b.page.phase, 0);
}

// Units of kUnits tiles at one 64-k slice, over all chosen experts in ascending order: experts that a token did not choose add zero times
// something, which leaves the sum's bits alone, so a token's result does not depend on its neighbours' experts.
template <int kUnits>
struct DownProducts {
  float d[kUnits][4];
  float factor[kUnits][4];
};

template <int kUnits>
__device__ __forceinline__ void multiply_down(Block& b, const uint8_t* units, int rank, bool real, DownProducts<kUnits>& p) {
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const uint8_t* h = b.shared.input + rank * kDownInputBytes;
  float2 token = *reinterpret_cast<const float2*>(h + kDownK * kRows + (group * kRows + lane % 4 * 2) * 4);
  if (!real) token = make_float2(0.0f, 0.0f);
  const uint64_t x = ptx::descriptor(ptx::shared_address(h) + group * 256, 128, 128);
  uint32_t a[kUnits][4];
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    const uint8_t* unit = units + u * kDownUnitBytes;
    const uint2 w = *reinterpret_cast<const uint2*>(unit + (group * 4 + warp) * 256 + lane * 8);
    const uint32_t s = *reinterpret_cast<const uint16_t*>(unit + 2048 + group * 64 + warp * 16 + lane / 4 * 2);
    a[u][0] = first_codes(w.x), a[u][1] = second_codes(w.x), a[u][2] = first_codes(w.y), a[u][3] = second_codes(w.y);
    const float s0 = scale_byte<0>(s), s8 = scale_byte<1>(s);
    p.factor[u][0] = s0 * token.x, p.factor[u][1] = s0 * token.y;
    p.factor[u][2] = s8 * token.x, p.factor[u][3] = s8 * token.y;
  }
  ptx::products_begin();
#pragma unroll
  for (int u = 0; u < kUnits; ++u) ptx::product_e4m3(p.d[u], a[u], x);
  ptx::products_commit();
}

template <int kUnits>
__device__ __forceinline__ void promote_down(const DownProducts<kUnits>& p, float (&acc)[kUnits][4]) {
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[u][i] = fmaf(p.d[u][i], p.factor[u][i], acc[u][i]);
  }
}

template <int kUnits>
__device__ void down_multiply(const ExpertsDownArgs& args, Block& b) {
  const int first = b.index() * args.passes * kUnits;
  if (first >= args.units) return;
  const int count = count_experts(args.masks, args.experts);
  fetch_input(b, args.h + static_cast<size_t>(first / args.tiles) * kMaxStepExperts * kDownInputBytes, count * kDownInputBytes,
              b.shared.input, nullptr, 0, nullptr);
  await_input(b);
#pragma unroll 1
  for (int pass = 0; pass < args.passes; ++pass) {
    float acc[kUnits][4] = {};
#pragma unroll 1
    for (int begin = 0; begin < count; begin += args.experts_per_page) {
      const int here = min(args.experts_per_page, count - begin);
      const uint8_t* page = await_page(b);
#pragma unroll 1
      for (int i = 0; i < here; i += 2) {
        const bool two = i + 1 < here;
        DownProducts<kUnits> p, q;
        multiply_down<kUnits>(b, page + i * kUnits * kDownUnitBytes, begin + i, true, p);
        multiply_down<kUnits>(b, page + (two ? i + 1 : i) * kUnits * kDownUnitBytes, begin + (two ? i + 1 : i), two, q);
        ptx::products_wait<1>();
        promote_down<kUnits>(p, acc);
        ptx::products_wait<0>();
        promote_down<kUnits>(q, acc);
      }
      release_page(b);
    }
#pragma unroll
    for (int u = 0; u < kUnits; ++u) hand_over(b, acc[u]);
  }
}

__device__ inline void down_finish(const ExpertsDownArgs& args, Block& b) {
  const int units = args.passes * args.units_per_pass, first = b.index() * units;
  if (first >= args.units) return;
#pragma unroll 1
  for (int u = 0; u < units; ++u) store_part(args.parts + static_cast<size_t>(first + u) * kPartFloats, take_over(b));
}

// The fetching warp: a page holds the units of several experts, one lane copies each.
__device__ inline void down_fetch(const ExpertsDownArgs& args, Block& b, uint64_t policy, int count) {
  int first = b.index() * args.passes * args.units_per_pass;
  if (first >= args.units) return;
  const int lane = threadIdx.x % 32;
  const uint32_t bytes = args.units_per_pass * kDownUnitBytes;
#pragma unroll 1
  for (int pass = 0; pass < args.passes; ++pass, first += args.units_per_pass) {
#pragma unroll 1
    for (int begin = 0; begin < count; begin += args.experts_per_page) {
      const int here = min(args.experts_per_page, count - begin);
      if (lane == 0) claim_page(b, bytes * here);
      __syncwarp();
      if (lane < here)
        ptx::bulk_copy(b.shared.pages[b.page.place] + lane * bytes,
                       args.pages + (static_cast<size_t>(b.shared.fetch_experts[begin + lane]) * args.units + first) * kDownUnitBytes,
                       bytes, &b.shared.page_full[b.page.place], policy);
      __syncwarp();
      b.page.next();
    }
  }
}

}  // namespace kilotoken::stack
