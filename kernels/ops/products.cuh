// The streaming matrix products: a linear (E4M3 or BF16 weights), and the expert pair (MXFP4 or E4M3). Two warpgroups share every page, each taking one half of
// its k, so that who multiplies what never depends on timing; the finishing warps add the two halves.
// Output rows are M, the eight tokens N = 8, always: a column of the result depends on its own token only.
#pragma once

#include "block.cuh"

namespace kilotoken::stack {

// --- between math and finishing warps

__device__ __forceinline__ void hand_over(Block& b, const float (&acc)[4]) {
  b.wait(&b.shared.finish_empty[b.slot.place], b.slot.phase ^ 1, ptx::Wait::kEpilogueEmpty);
  b.shared.finish[b.slot.place][b.thread / 128][b.thread % 128] = make_float4(acc[0], acc[1], acc[2], acc[3]);
  ptx::barrier_arrive(&b.shared.finish_full[b.slot.place]);
  b.slot.next();
}

// Until the finishing warps have taken over all that was handed to them: what they read shares its place with `scratch`.
__device__ __forceinline__ void await_taken_over(const Block& b) {
  Turn<2> slot = b.slot;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    b.wait(&b.shared.finish_empty[slot.place], slot.phase ^ 1, ptx::Wait::kEpilogueEmpty);
    slot.next();
  }
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
    const int thread = b.thread % kFinishThreads + i * kFinishThreads;
    const float4 x = b.shared.finish[b.slot.place][0][thread], y = b.shared.finish[b.slot.place][1][thread];
    sums.of[i] = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
  }
  ptx::barrier_arrive(&b.shared.finish_empty[b.slot.place]);
  b.slot.next();
  return sums;
}

__device__ __forceinline__ void store_part(const Block& b, float* part, const Sums& sums, uint32_t mark) {
  const int warp = b.thread % kFinishThreads / 32, lane = b.thread % 32, column = lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = (warp + 2 * i) * 16 + lane / 4;
    part[column * kTileRows + row] = marked(sums.of[i].x, mark);
    part[(column + 1) * kTileRows + row] = marked(sums.of[i].y, mark);
    part[column * kTileRows + row + 8] = marked(sums.of[i].z, mark);
    part[(column + 1) * kTileRows + row + 8] = marked(sums.of[i].w, mark);
  }
}

// One lane of the math warps says how many bytes of inputs it will bring; the others follow through input_full.
__device__ __forceinline__ void expect_input(Block& b, uint32_t bytes) {
  ptx::fence_async_global();
  ptx::barrier_expect(&b.shared.input_full, bytes);
}

__device__ __forceinline__ void await_input(Block& b) {
  b.wait_phase(&b.shared.input_full, 0, ptx::Wait::kActivations);
}

// --- a page of the ring

// The next kCount pages, which stay where they are until released. All are looked for at once: a branch costs a warp as much as ten instructions. Not `wanted`: they may not be there.
template <int kCount>
__device__ __forceinline__ void await_pages(Block& b, const uint8_t* (&at)[kCount], bool wanted = true) {
  Turn<kPages> turn = b.page;
  bool there = true;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    there = ptx::barrier_passed_already(&b.shared.page_full[turn.place], turn.phase) && there;
    at[i] = b.shared.pages[turn.place];
    turn.next();
  }
  if (there || !wanted) return;
  turn = b.page;
#pragma unroll 1
  for (int i = 0; i < kCount; ++i) {
    b.wait(&b.shared.page_full[turn.place], turn.phase, ptx::Wait::kRingFull);
    turn.next();
  }
}

template <int kCount>
__device__ __forceinline__ void release_pages(Block& b) {
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (b.thread % 32 == 0) ptx::barrier_arrive(&b.shared.page_empty[b.page.place]);
    b.page.next();
  }
}

// One lane. When fewer than kPagesInFlight are on their way.
__device__ __forceinline__ uint8_t* claim_page(Block& b, uint32_t bytes) {
  const int before = b.page.place - kPagesInFlight;
  const bool round_before = before < 0;
  b.wait(&b.shared.page_full[round_before ? before + kPages : before], b.page.phase ^ (round_before ? 1 : 0), ptx::Wait::kRingFull);
  b.wait(&b.shared.page_empty[b.page.place], b.page.phase ^ 1, ptx::Wait::kRingEmpty);
  ptx::barrier_expect(&b.shared.page_full[b.page.place], bytes);
  return b.shared.pages[b.page.place];
}

// --- linear

// One warpgroup's half of a page: 128 of 256 k as E4M3, or 64 of 128 k as BF16. Either is eight 16-byte columns. `page_of_slice`: of k.
template <Format kFormat>
struct PageProducts;

template <>
struct PageProducts<Format::kE4m3> {
  float d[4][4], factor[4];
  __device__ __forceinline__ void prepare(Block& b, const uint8_t* page, int page_of_slice) {
    const int group = b.thread / 128;
    const float2 weight_scale = reinterpret_cast<const float2*>(page + kCodeBytes)[group];
    const float2 scale =
        *reinterpret_cast<const float2*>(&b.shared.input_scales[(page_of_slice * 2 + group) * kRows + b.thread % 4 * 2]);
    factor[0] = weight_scale.x * scale.x, factor[1] = weight_scale.x * scale.y;
    factor[2] = weight_scale.y * scale.x, factor[3] = weight_scale.y * scale.y;
  }
  __device__ __forceinline__ void multiply(Block& b, const uint8_t* page, int page_of_slice) {
    const int group = b.thread / 128;
    const ptx::Operand a = ptx::uniform_operand(ptx::shared_address(page) + group * 8192, 1024, 128);
    const ptx::Operand x = ptx::uniform_operand(ptx::shared_address(b.shared.input) + page_of_slice * 2048 + group * 1024, 128, 128);
#pragma unroll
    for (int i = 0; i < 4; ++i) ptx::product_e4m3(d[i], a + i * 2048, x + i * 256);
  }
  __device__ __forceinline__ void promote(float (&acc)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[i] = fmaf(((d[0][i] + d[1][i]) + d[2][i]) + d[3][i], factor[i], acc[i]);
  }
};

template <>
struct PageProducts<Format::kBf16> {
  float d[8];  // with the inputs' high parts, with their low parts
  __device__ __forceinline__ void prepare(Block&, const uint8_t*, int) {}
  __device__ __forceinline__ void multiply(Block& b, const uint8_t* page, int page_of_slice) {
    const int group = b.thread / 128;
    const ptx::Operand a = ptx::uniform_operand(ptx::shared_address(page) + group * 8192, 1024, 128);
    const ptx::Operand x = ptx::uniform_operand(ptx::shared_address(b.shared.input) + page_of_slice * 2048 + group * 1024, 128, kInputBytes / 2);
    ptx::product_bf16<false>(d, a, x);
#pragma unroll
    for (int i = 1; i < 4; ++i) ptx::product_bf16<true>(d, a + i * 2048, x + i * 256);
  }
  __device__ __forceinline__ void promote(float (&acc)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[i] += d[i] + d[4 + i];
  }
};

// Bytes of the two parts of one page's inputs: codes and scales, or high and low halves.
template <Format kFormat>
inline constexpr int kInputPart = kFormat == Format::kE4m3 ? kE4m3PageK * kRows : kBf16PageK * kRows * 2;
template <Format kFormat>
inline constexpr int kInputPart2 = kFormat == Format::kE4m3 ? kE4m3PageK / kQuantGroup * kRows * 4 : kBf16PageK * kRows * 2;

// The inputs of pages [from, to) of a slice, on their way to the places that they have in it. Found out before the wait for them, sent behind it.
template <Format kFormat>
struct InputFetch {
  const uint8_t *from, *from2;
  uint8_t *to, *to2;
  int pages;
  __device__ __forceinline__ InputFetch(const LinearArgs& args, Block& b, int slice, int first, int end) : pages(end - first) {
    constexpr int kPart = kInputPart<kFormat>, kPart2 = kInputPart2<kFormat>;
    const size_t page = static_cast<size_t>(slice) * args.tiling.pages + first;
    from = static_cast<const uint8_t*>(args.input) + page * kPart;
    from2 = static_cast<const uint8_t*>(args.input2) + page * kPart2;
    to = b.shared.input + first * kPart;
    to2 = (kFormat == Format::kE4m3 ? reinterpret_cast<uint8_t*>(b.shared.input_scales) : b.shared.input + kInputBytes / 2) + first * kPart2;
  }
  __device__ __forceinline__ void send(Block& b) const {
    if (pages == 0) return;
    ptx::bulk_copy(to, from, pages * kInputPart<kFormat>, &b.shared.input_full);
    ptx::bulk_copy(to2, from2, pages * kInputPart2<kFormat>, &b.shared.input_full);
  }
};

// The next kCount pages, all in flight at once; a unit that ends among them, or where the slice's share ends, is handed over.
template <Format kFormat, int kCount>
__device__ __forceinline__ void linear_pages(Block& b, int pages_of_unit, int& begin, int end, int& page, float (&acc)[4]) {
  const uint8_t* at[kCount];
  await_pages(b, at);
  PageProducts<kFormat> p[kCount];
  int of_slice[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    of_slice[i] = i == 0 ? (page == pages_of_unit ? 0 : page) : of_slice[i - 1] + 1 == pages_of_unit ? 0 : of_slice[i - 1] + 1;
    p[i].prepare(b, at[i], of_slice[i]);
  }
  ptx::products_begin();
#pragma unroll
  for (int i = 0; i < kCount; ++i) p[i].multiply(b, at[i], of_slice[i]);
  ptx::products_commit();
  ptx::products_wait<0>();
  release_pages<kCount>(b);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    p[i].promote(acc);
    if (of_slice[i] + 1 == pages_of_unit || begin + i + 1 == end) {
      hand_over(b, acc);
#pragma unroll
      for (int j = 0; j < 4; ++j) acc[j] = 0.0f;
    }
  }
  begin += kCount;
  page = of_slice[kCount - 1] + 1;
}

// The block's pages, slice by slice. `ready`: thread 0 waits until the inputs are there.
template <Format kFormat, class Ready>
__device__ void linear_multiply(const LinearArgs& args, Block& b, Ready ready) {
  const Tiling& t = args.tiling;
  const Share share = share_of(t, b.index());
  const int per_slice = t.tiles * t.pages;
  float acc[4] = {};
  if (b.thread == 0 && share.begin == share.end) ready();
#pragma unroll 1
  for (int begin = share.begin; begin < share.end;) {
    const int slice = begin / t.by_slice, end = min(share.end, (slice + 1) * per_slice);
    int page = begin - begin / t.by_pages * t.pages;
    if (begin != share.begin) math_sync();  // the slice before is multiplied
    if (b.thread == 0) {
      // All of the slice, or one stretch of its k, or its end and its beginning.
      const int pages = min(end - begin, t.pages), at = end - begin >= t.pages ? 0 : page, first = min(pages, t.pages - at);
      const InputFetch<kFormat> one(args, b, slice, at, at + first), other(args, b, slice, 0, pages - first);
      if (begin == share.begin) ready();
      expect_input(b, pages * (kInputPart<kFormat> + kInputPart2<kFormat>));
      one.send(b);
      other.send(b);
    }
    await_input(b);
#pragma unroll 1
    while (end - begin >= 2) linear_pages<kFormat, 2>(b, t.pages, begin, end, page, acc);
    if (end - begin >= 1) linear_pages<kFormat, 1>(b, t.pages, begin, end, page, acc);
  }
}

__device__ inline void linear_finish(const LinearArgs& args, Block& b) {
  const Tiling& t = args.tiling;
  const Share share = share_of(t, b.index());
  if (share.begin == share.end) return;
  const uint32_t mark = mark_of(args.uses, b);
  const int last = (share.end - 1) / t.by_pages;
#pragma unroll 1
  for (int unit = share.begin / t.by_pages; unit <= last; ++unit)
    store_part(b, args.parts + static_cast<size_t>(unit + b.index()) * kPartFloats, take_over(b), mark);
}

// One lane. The block's share is one range of memory.
__device__ inline void linear_fetch(const LinearArgs& args, Block& b, uint64_t policy) {
  const Share share = share_of(args.tiling, b.index());
  const uint32_t bytes = page_bytes(args.format);
  const uint8_t* from = args.pages + static_cast<size_t>(share.begin) * bytes;
  const uint8_t* const end = args.pages + static_cast<size_t>(share.end) * bytes;
#pragma unroll 1
  for (; from < end; from += bytes) {
    uint8_t* to = claim_page(b, bytes);
    ptx::bulk_copy(to, from, bytes, &b.shared.page_full[b.page.place], policy);
    b.page.next();
  }
}

// --- experts

// The fetching warp: waits for every row's choice, lists the experts that any row chose in ascending order with their ranks, and tells the others.
__device__ __forceinline__ int list_experts(const Choice* choice, Uses uses, int experts, Place b) {
  const int lane = b.thread % 32, words = (experts + 15) / 16;
  const uint32_t mark = mark_of(uses, b);
  uint32_t any = 0;
  if (lane < words) {
    ptx::Watch watch;
    uint32_t row_mask[kRows], other;
    do {
      other = 0;
#pragma unroll
      for (int row = 0; row < kRows; ++row) row_mask[row] = ptx::load_relaxed(&choice->masks[row][lane]);
#pragma unroll
      for (int row = 0; row < kRows; ++row) other |= row_mask[row] >> 31 ^ mark;
      if (other != 0) watch.look(b.fault(), ptx::Wait::kExperts, b.instruction());
    } while (other != 0);
#pragma unroll
    for (int row = 0; row < kRows; ++row) any |= row_mask[row] & 0xffffu;
  }
  __syncwarp();
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
    const int id = lane * 16 + __ffs(any) - 1;
    b.shared.expert_rank[id] = static_cast<uint16_t>(before);
    b.shared.experts[before++] = static_cast<uint16_t>(id);
    any &= any - 1;
  }
  if (lane == 0) b.shared.expert_count = count;
  __syncwarp();
  if (lane == 0) ptx::barrier_arrive(&b.shared.experts_full);
  return count;
}

__device__ __forceinline__ int await_experts(Block& b) {
  b.wait_phase(&b.shared.experts_full, 2, ptx::Wait::kExperts);
  return b.shared.expert_count;
}

// Segments that a block makes, of all chosen experts' tiles in the order of ranks: [begin, end) of the tiles that are dealt out by segments, then a whole tile a round.
// Of the first, those of a tile that another block finishes come before the rest, so that no block waits for its neighbours' last product.
struct UpShare {
  int begin, end;
  int tail;       // [tail, end): of a tile that the block does not finish
  int dealt;      // tiles that are dealt out by segments
  int in_rounds;  // segments behind them
  __device__ __forceinline__ int count() const { return end - begin + in_rounds; }
};

__device__ __forceinline__ UpShare up_share(const ExpertsUpArgs& args, int block, int blocks, int experts) {
  const int tiles = experts * args.tiles, rounds = tiles / args.by_blocks;
  UpShare share;
  share.dealt = tiles - rounds * blocks;
  share.in_rounds = rounds * args.segments;
  share.begin = block * share.dealt * args.segments / args.by_blocks, share.end = (block + 1) * share.dealt * args.segments / args.by_blocks;
  share.tail = max(share.begin, share.end / args.by_segments * args.segments);
  return share;
}

// The n-th segment that the block makes.
__device__ __forceinline__ int nth_segment(const ExpertsUpArgs& args, const UpShare& share, int block, int blocks, int n) {
  const int of_dealt = share.end - share.begin;
  if (n < of_dealt) return share.tail + n < share.end ? share.tail + n : share.tail + n - of_dealt;
  const int round = (n - of_dealt) / args.by_segments;
  return (share.dealt + round * blocks + block - round) * args.segments + n - of_dealt;
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

__device__ __forceinline__ void multiply(Quarter& q, ptx::Operand x) {
  ptx::products_begin();
#pragma unroll
  for (int i = 0; i < 4; ++i) ptx::product_e4m3(q.d[i], q.a[i], x + i * 256);
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

// The products of quarters that are all in flight, from pages of kPageK columns, added as they arrive. `tokens`: the activation scales of the first.
template <int kPageK, int kLeft, int kAll>
__device__ __forceinline__ void promote_quarters(Block& b, bool rehearsal, const Quarter (&q)[kAll], const uint32_t (&scales0)[kAll], const uint32_t (&scales8)[kAll], const float2* tokens,
                                                 float (&acc)[4]) {
  constexpr int i = kAll - 1 - kLeft, kOfPage = kPageK / 256;
  ptx::products_wait<kLeft>();
  if constexpr ((i + 1) % kOfPage == 0) {
    __syncwarp();
    if (b.thread % 32 == 0 && !rehearsal) ptx::barrier_arrive(&b.shared.page_empty[b.page.place]);
    b.page.next(rehearsal ? 0 : 1);
  }
  promote(q[i], scales0[i], scales8[i], tokens[(i / kOfPage * (kPageK / kQuantGroup) + i % kOfPage) * (kRows / 2)], acc);
  if constexpr (kLeft > 0) promote_quarters<kPageK, kLeft - 1, kAll>(b, rehearsal, q, scales0, scales8, tokens, acc);
}

// One warpgroup's halves of the next kCount up pages of kPageK columns, the first of which is page `page_of_tile`. A rehearsal takes the inputs for pages.
template <int kPageK, int kCount>
__device__ __forceinline__ void multiply_up_pages(Block& b, bool rehearsal, int page_of_tile, float (&acc)[4]) {
  constexpr int kQuarters = kPageK / 256, kAll = kCount * kQuarters;
  const int half = b.thread / 128, warp = b.thread / 32 % 4, lane = b.thread % 32;
  const uint8_t* page[kCount];
  await_pages(b, page, !rehearsal);
#pragma unroll
  for (int i = 0; i < kCount; ++i) page[i] = rehearsal ? b.shared.input : page[i];
  Quarter q[kAll];
  uint32_t s0[kAll], s8[kAll];
  const int first_group = page_of_tile * (kPageK / kQuantGroup) + half * (kPageK / 256);  // of 128 k
  const ptx::Operand inputs = ptx::uniform_operand(ptx::shared_address(b.shared.input) + first_group * kQuantGroup * kRows, 128, 128);
  const float2* const tokens = reinterpret_cast<const float2*>(&b.shared.input_scales[first_group * kRows + lane % 4 * 2]);
#pragma unroll
  for (int i = 0; i < kAll; ++i) {
    const uint8_t* const from = page[i / kQuarters];
    const uint8_t* const scales = from + 32 * kPageK + (half * 64 + warp * 16 + lane / 4) * (kPageK / 64) + i % kQuarters * 4;
    s0[i] = *reinterpret_cast<const uint32_t*>(scales);
    s8[i] = *reinterpret_cast<const uint32_t*>(scales + 8 * (kPageK / 64));
    unpack(from + half * (16 * kPageK) + warp * 512 + lane * 16 + i % kQuarters * 4096, q[i]);
    multiply(q[i], inputs + (i / kQuarters * (kPageK / kQuantGroup) + i % kQuarters) * kQuantGroup * kRows);
  }
  promote_quarters<kPageK, kAll - 1, kAll>(b, rehearsal, q, s0, s8, tokens, acc);
}

// The same of E4M3 pages.
template <int kCount>
__device__ __forceinline__ void multiply_up_pages_e4m3(Block& b, int page_of_tile, float (&acc)[4]) {
  const uint8_t* page[kCount];
  await_pages(b, page);
  PageProducts<Format::kE4m3> p[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) p[i].prepare(b, page[i], page_of_tile + i);
  ptx::products_begin();
#pragma unroll
  for (int i = 0; i < kCount; ++i) p[i].multiply(b, page[i], page_of_tile + i);
  ptx::products_commit();
  ptx::products_wait<0>();
  release_pages<kCount>(b);
#pragma unroll
  for (int i = 0; i < kCount; ++i) p[i].promote(acc);
}

// The math warps have seen done what came before; from here on the finishing warps may read what it made. The math warps do not wait: they come here again behind down
// products, which wait for all blocks' finishing warps.
__device__ __forceinline__ void finishing_may_begin() { ptx::group_arrive<3, kMathThreads + kFinishThreads>(); }
__device__ __forceinline__ void await_begin() { ptx::group_sync<3, kMathThreads + kFinishThreads>(); }

// Pages [page, end) of a tile.
template <int kPageK>
__device__ __forceinline__ void multiply_up_segment(Block& b, bool rehearsal, int page, int end, float (&acc)[4]) {
#pragma unroll 1
  for (; page + 2 <= end; page += 2) multiply_up_pages<kPageK, 2>(b, rehearsal, page, acc);
  if (page < end) multiply_up_pages<kPageK, 1>(b, rehearsal, page, acc);
}
__device__ __forceinline__ void multiply_up_segment_e4m3(Block& b, int page, int end, float (&acc)[4]) {
#pragma unroll 1
  for (; page + 2 <= end; page += 2) multiply_up_pages_e4m3<2>(b, page, acc);
  if (page < end) multiply_up_pages_e4m3<1>(b, page, acc);
}

template <class Ready>
__device__ __forceinline__ void up_multiply(const ExpertsUpArgs& args, Block& b, Ready ready) {
  finishing_may_begin();
  b.phases ^= 1u << 3;
  const int k = args.segments * args.pages_per_segment * args.page_k;
  if (b.thread == 0) {
    const uint8_t* const codes = args.codes;
    const float* const scales = args.scales;
    ready();
    const bool known = ptx::barrier_passed_already(&b.shared.experts_full, b.phases >> 2 & 1);
    b.shared.experts_known = known;
    // Otherwise the router still chooses, and inputs that nobody can use yet would be in its parts' way.
    if (!known) b.wait(&b.shared.finish_began, (b.phases >> 3 & 1) ^ 1, ptx::Wait::kEpilogueFull);
    expect_input(b, k * kRows + k / kQuantGroup * kRows * 4);
    ptx::bulk_copy(b.shared.input, codes, k * kRows, &b.shared.input_full);
    ptx::bulk_copy(b.shared.input_scales, scales, k / kQuantGroup * kRows * 4, &b.shared.input_full);
  }
  await_input(b);
  // While the router still chooses: the loop's instructions are not in the cache (each layer runs more of them than it holds), and fetching them takes as long as two
  // pages in good supply; so two pages that are none are multiplied meanwhile and forgotten.
  bool rehearsal = !b.shared.experts_known;
  int segment = 0, first = 0;     // of the tile; of the first behind the tile that the block does not finish
  int left = 1, behind_tail = 0;  // segments to go; of them behind that tile's
  const auto begin = [&] {
    const int count = await_experts(b);
    if (b.thread == 0 && b.index() == 0) b.state->touched[args.mixture_layer] = static_cast<uint32_t>(count);
    const UpShare share = up_share(args, b.index(), b.count(), count);
    left = share.count(), behind_tail = left - (share.end - share.tail);
    first = share.tail > share.begin ? share.begin - share.begin / args.by_segments * args.segments : 0;
    segment = left == behind_tail ? first : share.tail - share.tail / args.by_segments * args.segments;
  };
  if (!rehearsal) begin();
#pragma unroll 1
  while (left > 0) {
    float acc[4] = {};
    const int page = segment * args.pages_per_segment, end = rehearsal ? 2 : page + args.pages_per_segment;
    if (args.storage == Storage::kE4m3) {
      if (!rehearsal) multiply_up_segment_e4m3(b, page, end, acc);
    } else {
      if (args.page_k == 512) multiply_up_segment<512>(b, rehearsal, page, end, acc);
      else multiply_up_segment<256>(b, rehearsal, page, end, acc);
    }
    if (!rehearsal) {
      hand_over(b, acc);
      --left;
      segment = segment + 1 == args.segments ? 0 : segment + 1;
      if (left == behind_tail) segment = first;
      continue;
    }
    rehearsal = false;
    begin();
  }
}

// A segment's sums on their way to the block that finishes the tile: two times 64 x 16 bytes, a thread's own side by side with its neighbours'.
__device__ __forceinline__ void store_piece(float4* pieces, int block, int place, const Sums& sums, uint32_t mark) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 x = sums.of[i];
    pieces[((block * kMostCut + place) * 2 + i) * kFinishThreads] = make_float4(marked(x.x, mark), marked(x.y, mark), marked(x.z, mark), marked(x.w, mark));
  }
}

// Of `segment`, from whichever block has made it.
__device__ __forceinline__ Sums await_piece(const ExpertsUpArgs& args, const float4* pieces, const Block& b, int segment, const UpShare& own, int experts, uint32_t mark) {
  const int block = ((segment + 1) * b.count() - 1) / (own.dealt * args.segments);
  const float4* const from = pieces + (block * kMostCut + segment - up_share(args, block, b.count(), experts).tail) * 2 * kFinishThreads;
  ptx::Watch watch;
  Sums sums;
  for (;;) {
#pragma unroll
    for (int i = 0; i < 2; ++i) sums.of[i] = turned(ptx::load_relaxed(from + i * kFinishThreads), mark);
    if (((any_bit(sums.of[0]) | any_bit(sums.of[1])) & 1u) == 0 || defect(Defect::kStalePart)) return sums;
    watch.look(b.fault(), ptx::Wait::kParts, b.instruction());
  }
}

// A segment's sums have the bits that they would have had on that way.
__device__ __forceinline__ void add(Sums& sums, const Sums& segment) {
#pragma unroll
  for (int i = 0; i < 2; ++i) sums.of[i] = sums.of[i] + unmarked(segment.of[i]);
}

// --- the down products' inputs. Experts that are complete before the last round of up products come first: a finishing thread sends for them when the math warps have
// handed over their last segment, and for the others when all blocks have reported.

// Of `count`, those whose h is complete when all blocks have made all tiles but those of the last round.
__device__ __forceinline__ int early_experts(const ExpertsUpArgs& args, int count, int blocks) { return early_tiles(count * args.tiles, blocks) / args.by_tiles; }
__device__ __forceinline__ int early_experts(const ExpertsDownArgs& args, int count, int blocks) { return early_tiles(count * args.up_tiles, blocks) / args.by_up_tiles; }

// One thread; a slice's h of experts [first, end) in the order of ranks.
__device__ __forceinline__ void send_h(const uint8_t* h, int slice, Block& b, int first, int end, uint64_t* full) {
  const uint32_t bytes = (end - first) * kDownInputBytes;
  ptx::fence_async_global();
  ptx::barrier_expect(full, bytes);
  ptx::bulk_copy(b.shared.input + first * kDownInputBytes, h + (static_cast<size_t>(slice) * kMaxStepExperts + first) * kDownInputBytes, bytes, full);
}

// silu(gate) * up, to E4M3 with a scale for each token and 32 of h; the router's weight and code_unit of the down projection go into the scale.
// What one thread calls: `report_early` when all of the block's tiles are made but that of the last round, `await_early` until all blocks have said so; false: nobody asks.
template <class Report, class Await>
__device__ void up_finish(const ExpertsUpArgs& args, Block& b, Report report_early, Await await_early) {
  const int warp = b.thread % kFinishThreads / 32, lane = b.thread % 32, column = lane % 4 * 2;
  // Meanwhile the math warps multiply: the norm's factors, and how much each row gives to each expert.
  const int warps = kFinishThreads / 32;
  await_begin();
  if (b.thread % kFinishThreads == 0) ptx::barrier_arrive(&b.shared.finish_began);
#pragma unroll 1
  for (int row = warp; row < kRows; row += warps) {
    const float factor = norm_factor(args.norm, norm_squares(args.norm, row));
    if (lane == 0) b.shared.factor[row] = factor;
  }
  const int count = await_experts(b);
#pragma unroll 1
  for (int i = b.thread % kFinishThreads; i < count * kRows; i += kFinishThreads) b.shared.expert_weight[i / kRows][i % kRows] = 0.0f;
  finish_sync();
  {
    static_assert(kFinishThreads == kRows * kMaxExpertsPerToken, "a thread a choice");
    const int row = b.thread % kRows, n = b.thread % kFinishThreads / kRows;
    if (row < static_cast<int>(b.shared.rows) && n < args.per_token - defect(Defect::kExpertDropped)) {
      const uint32_t mark = mark_of(args.uses, b);
      ptx::Watch watch;
      uint2 one;
      while (one = ptx::load_relaxed(&args.choice->experts[row][n]), (one.x >> 31 ^ mark) | (one.y >> 31 ^ mark))
        watch.look(b.fault(), ptx::Wait::kExperts, b.instruction());
      b.shared.expert_weight[b.shared.expert_rank[one.x & 0xffffu]][row] = __uint_as_float(one.y & 0x7fffffffu);
    }
  }
  finish_sync();
  const UpShare share = up_share(args, b.index(), b.count(), count);
  const uint32_t pieces_mark = mark_of(args.pieces_uses, b);
  float4* const pieces = reinterpret_cast<float4*>(args.pieces) + b.thread % kFinishThreads;
  const float unit = code_unit(args.storage);
  // A place that this use leaves empty would still be that of the use before the last.
  if (args.segments > 1) {
#pragma unroll 1
    for (int i = share.end - share.tail; i < kMostCut; ++i) store_piece(pieces, b.index(), i, Sums{}, pieces_mark);
  }
  const int last_round = share.in_rounds > 0 ? share.count() - args.segments : 0;
  if (last_round == 0 && b.thread % kFinishThreads == 0) report_early();
  Sums sums{};
#pragma unroll 1
  for (int n = 0; n < share.count(); ++n) {
    const int segment = nth_segment(args, share, b.index(), b.count(), n), tile = segment / args.by_segments, of_tile = segment - tile * args.segments;
    if (n == last_round && n > 0 && b.thread % kFinishThreads == 0) report_early();
    if (n < share.end - share.tail) {
      store_piece(pieces, b.index(), segment - share.tail, take_over(b), pieces_mark);
      continue;
    }
    if (segment == share.begin && of_tile > 0) {
#pragma unroll 1
      for (int i = 0; i < of_tile; ++i) add(sums, await_piece(args, pieces, b, segment - of_tile + i, share, count, pieces_mark));
    }
    add(sums, take_over(b));
    if (n + 1 == share.count() && b.thread % kFinishThreads == 0) {
      const int early = early_experts(args, count, b.count()), unit = b.index() * args.down_units_of_block;
      if (early > 0 && unit < args.down_units && await_early()) send_h(args.h, unit / args.down_by_tiles, b, 0, early, &b.shared.input_full);
    }
    if (of_tile + 1 < args.segments) continue;
    const int rank = tile / args.by_tiles, of_expert = tile - rank * args.tiles;
    float h[2][2];  // [i][column]
    float largest[2] = {};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float factor = b.shared.factor[column + c] * unit;
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
      for (int c = 0; c < 2; ++c) scales[column + c] = q[c].scale * unit * b.shared.expert_weight[rank][column + c];
    }
    sums = Sums{};
    finish_sync();  // finish_scratch is read
  }
}

// The fetching warp; experts are known.
__device__ inline void up_fetch(const ExpertsUpArgs& args, Block& b, uint64_t policy, int count) {
  const UpShare share = up_share(args, b.index(), b.count(), count);
  const uint32_t bytes = up_page_bytes(args.storage, args.page_k), segment_bytes = args.pages_per_segment * bytes;
  if (b.thread % 32 == 0) {
#pragma unroll 1
    for (int n = 0; n < share.count(); ++n) {
      const int segment = nth_segment(args, share, b.index(), b.count(), n), rank = segment / args.by_segments / args.by_tiles;
      const uint8_t* from = args.pages + (static_cast<size_t>(b.shared.experts[rank] - rank) * args.tiles * args.segments + segment) * segment_bytes;
#pragma unroll 1
      for (int page = 0; page < args.pages_per_segment; ++page, from += bytes) {
        uint8_t* to = claim_page(b, bytes);
        ptx::bulk_copy(to, from, bytes, &b.shared.page_full[b.page.place], policy);
        b.page.next();
      }
    }
  }
  b.page.place = __shfl_sync(~0u, b.page.place, 0);
  b.page.phase = __shfl_sync(~0u, b.page.phase, 0);
}

// They are powers of two.
constexpr bool fits_page(Storage experts, int units) { return down_experts_per_page(experts, units) * units * down_unit_bytes(experts) <= kPageBytes; }
static_assert(fits_page(Storage::kMxfp4, 1) && fits_page(Storage::kMxfp4, 2) && fits_page(Storage::kMxfp4, 3));
static_assert(fits_page(Storage::kE4m3, 1) && fits_page(Storage::kE4m3, 2) && fits_page(Storage::kE4m3, 3));

inline constexpr int kDownUnitBytes = down_unit_bytes(Storage::kMxfp4), kDownUnitBytesE4m3 = down_unit_bytes(Storage::kE4m3);

// Units of kUnits tiles at one 64-k slice, over all chosen experts in ascending order: experts that a token did not choose add zero times
// something, which leaves the sum's bits alone, so a token's result does not depend on its neighbours' experts.
template <int kUnits>
struct DownProducts {
  uint32_t a[kUnits][4];
  float d[kUnits][4];
};

// The block's units of one expert; `x`: its h.
template <int kUnits>
__device__ __forceinline__ void multiply_down(Block& b, const uint8_t* units, ptx::Operand x, DownProducts<kUnits>& p) {
  const int half = b.thread / 128, warp = b.thread / 32 % 4, lane = b.thread % 32;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    const uint2 w = *reinterpret_cast<const uint2*>(units + u * kDownUnitBytes + (half * 4 + warp) * 256 + lane * 8);
    p.a[u][0] = first_codes(w.x), p.a[u][1] = second_codes(w.x), p.a[u][2] = first_codes(w.y), p.a[u][3] = second_codes(w.y);
  }
  ptx::products_begin();
#pragma unroll
  for (int u = 0; u < kUnits; ++u) ptx::product_e4m3(p.d[u], p.a[u], x);
  ptx::products_commit();
}

template <int kUnits>
__device__ __forceinline__ void promote_down(Block& b, const uint8_t* units, int rank, const DownProducts<kUnits>& p, float (&acc)[kUnits][4]) {
  const int half = b.thread / 128, warp = b.thread / 32 % 4, lane = b.thread % 32;
  const float2 token = *reinterpret_cast<const float2*>(b.shared.input + rank * kDownInputBytes + kDownK * kRows + (half * kRows + lane % 4 * 2) * 4);
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    const uint32_t s = *reinterpret_cast<const uint16_t*>(units + u * kDownUnitBytes + 2048 + half * 64 + warp * 16 + lane / 4 * 2);
    const float s0 = scale_byte<0>(s), s8 = scale_byte<1>(s);
    acc[u][0] = fmaf(p.d[u][0], s0 * token.x, acc[u][0]);
    acc[u][1] = fmaf(p.d[u][1], s0 * token.y, acc[u][1]);
    acc[u][2] = fmaf(p.d[u][2], s8 * token.x, acc[u][2]);
    acc[u][3] = fmaf(p.d[u][3], s8 * token.y, acc[u][3]);
  }
}

// kCount of the experts of a page (or of two), from expert `i` of them on, all in flight.
template <int kUnits, int kCount>
__device__ __forceinline__ void down_some(Block& b, const uint8_t* const (&page)[2], int i, int here, int rank, float (&acc)[kUnits][4]) {
  constexpr int kPerPage = down_experts_per_page(Storage::kMxfp4, kUnits);
  DownProducts<kUnits> p[kCount];
  const uint8_t* units[kCount];
  const ptx::Operand x = ptx::uniform_operand(ptx::shared_address(b.shared.input) + (rank + i) * kDownInputBytes + b.thread / 128 * 256, 128, 128);
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    const int at = defect(Defect::kExpertOrder) && b.shared.expert_count % 2 == 0 ? here - 1 - (i + n) : i + n;
    units[n] = kPerPage < 4 && at >= kPerPage ? page[1] + (at - kPerPage) * (kUnits * kDownUnitBytes) : page[0] + at * (kUnits * kDownUnitBytes);
    multiply_down<kUnits>(b, units[n], x + (at - i) * kDownInputBytes, p[n]);
  }
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    if (n == 0) ptx::products_wait<kCount - 1>();
    if (n == 1) ptx::products_wait<kCount < 2 ? 0 : kCount - 2>();
    if (n == 2) ptx::products_wait<kCount < 3 ? 0 : kCount - 3>();
    if (n == 3) ptx::products_wait<0>();
    const int at = defect(Defect::kExpertOrder) && b.shared.expert_count % 2 == 0 ? here - 1 - (i + n) : i + n;
    promote_down<kUnits>(b, units[n], rank + at, p[n], acc);
  }
}

// The inputs of the experts whose h was made last.
__device__ __forceinline__ void await_late(Block& b) {
  b.wait_phase(&b.shared.late_full, 1, ptx::Wait::kActivations);
}

// All chosen experts' units of one pass: four at a time, and what is left. `there`: experts whose inputs are there; the others' are awaited where they are needed.
template <int kUnits>
__device__ __forceinline__ void down_experts(Block& b, int count, int& there, float (&acc)[kUnits][4]) {
  constexpr int kPerPage = down_experts_per_page(Storage::kMxfp4, kUnits), kPagesAtOnce = kPerPage < 4 ? 4 / kPerPage : 1;
  constexpr int kAtOnce = kPerPage * kPagesAtOnce;
  static_assert(kPagesAtOnce <= 2);
  const uint8_t* page[2];
  int begin = 0;
#pragma unroll 1
  for (;;) {
#pragma unroll 1
    for (; begin + kAtOnce <= there; begin += kAtOnce) {
      if constexpr (kPagesAtOnce == 2) {
        await_pages(b, page);
      } else {
        const uint8_t* one[1];
        await_pages(b, one);
        page[0] = page[1] = one[0];
      }
#pragma unroll 1
      for (int i = 0; i < kAtOnce; i += 4) down_some<kUnits, 4>(b, page, i, kAtOnce, begin, acc);
      release_pages<kPagesAtOnce>(b);
    }
    if (there == count) break;
    await_late(b);
    there = count;
  }
  const int left = count - begin;
  if (left == 0) return;
  const bool second = kPagesAtOnce == 2 && left > kPerPage;
  if (second) {
    await_pages(b, page);
  } else {
    const uint8_t* one[1];
    await_pages(b, one);
    page[0] = page[1] = one[0];
  }
#pragma unroll 1
  for (int i = 0; i < left; ++i) down_some<kUnits, 1>(b, page, i, left, begin, acc);
  release_pages<1>(b);
  if (second) release_pages<1>(b);
}

// The same of E4M3: a page is as long as its products take, so one at a time is enough.
template <int kUnits>
__device__ __forceinline__ void down_experts_e4m3(Block& b, int count, int& there, float (&acc)[kUnits][4]) {
  constexpr int kPerPage = down_experts_per_page(Storage::kE4m3, kUnits);
  const int half = b.thread / 128, lane = b.thread % 32;
#pragma unroll 1
  for (int begin = 0; begin < count; begin += kPerPage) {
    const int here = min(kPerPage, count - begin);
    if (begin + here > there) {
      await_late(b);
      there = count;
    }
    const uint8_t* page[1];
    await_pages(b, page);
    float d[kPerPage][kUnits][4], scale[kPerPage][kUnits];
    float2 token[kPerPage];
#pragma unroll
    for (int n = 0; n < kPerPage; ++n) {
      const int at = min(n, here - 1);  // the last expert again for those that there are not
      token[n] = *reinterpret_cast<const float2*>(b.shared.input + (begin + at) * kDownInputBytes + kDownK * kRows + (half * kRows + lane % 4 * 2) * 4);
      if (n >= here) token[n] = make_float2(0.0f, 0.0f);
#pragma unroll
      for (int u = 0; u < kUnits; ++u)
        scale[n][u] = *reinterpret_cast<const float*>(page[0] + (at * kUnits + u) * kDownUnitBytesE4m3 + down_code_bytes(Storage::kE4m3));
    }
    ptx::products_begin();
#pragma unroll
    for (int n = 0; n < kPerPage; ++n) {
      const int at = min(n, here - 1);
      const ptx::Operand a = ptx::operand(ptx::shared_address(page[0]) + at * kUnits * kDownUnitBytesE4m3 + half * 2048, 1024, 128);
      const ptx::Operand x = ptx::operand(ptx::shared_address(b.shared.input) + (begin + at) * kDownInputBytes + half * 256, 128, 128);
#pragma unroll
      for (int u = 0; u < kUnits; ++u) ptx::product_e4m3(d[n][u], a + u * kDownUnitBytesE4m3, x);
    }
    ptx::products_commit();
    ptx::products_wait<0>();
    release_pages<1>(b);
#pragma unroll
    for (int n = 0; n < kPerPage; ++n) {
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[u][i] = fmaf(d[n][u][i], scale[n][u] * (i % 2 == 0 ? token[n].x : token[n].y), acc[u][i]);
      }
    }
  }
}

// `early`: whether up products came before, whose finishing warps have sent for h of early experts. `ready`: as in linear_multiply().
// The math warps have no more use for the inputs before; the finishing warps wait for that.
__device__ __forceinline__ void inputs_free(const Block&) { ptx::group_arrive<4, kMathThreads + kFinishThreads>(); }
__device__ __forceinline__ void await_inputs_free(const Block&) { ptx::group_sync<4, kMathThreads + kFinishThreads>(); }

template <Storage kStorage, int kUnits, class Ready>
__device__ void down_multiply(const ExpertsDownArgs& args, Block& b, bool early, Ready ready) {
  const int first = b.index() * args.passes * kUnits;
  if (b.thread == 0 && first >= args.units) ready();
  if (first >= args.units) return;
  inputs_free(b);
  const int count = b.shared.expert_count;
  int there = early ? early_experts(args, count, b.count()) : 0;
  if (there > 0) await_input(b);
#pragma unroll 1
  for (int pass = 0; pass < args.passes; ++pass) {
    float acc[kUnits][4] = {};
    if constexpr (kStorage == Storage::kE4m3) down_experts_e4m3<kUnits>(b, count, there, acc);
    else down_experts<kUnits>(b, count, there, acc);
#pragma unroll
    for (int u = 0; u < kUnits; ++u) hand_over(b, acc[u]);
  }
}

template <class Ready>
__device__ void down_finish(const ExpertsDownArgs& args, Block& b, bool early, Ready ready) {
  const int units = args.passes * args.units_per_pass, first = b.index() * units;
  if (first >= args.units) return;
  await_inputs_free(b);
  if (b.thread % kFinishThreads == 0) {
    const int count = b.shared.expert_count;
    ready();
    send_h(args.h, first / args.by_tiles, b, early ? early_experts(args, count, b.count()) : 0, count, &b.shared.late_full);
  }
#pragma unroll 1
  for (int u = 0; u < units; ++u) store_part(b, args.parts + static_cast<size_t>(first + u) * kPartFloats, take_over(b), mark_of(args.uses, b));
}

// The fetching warp: a page holds the units of several experts, one lane copies each.
__device__ inline void down_fetch(const ExpertsDownArgs& args, Block& b, uint64_t policy, int count) {
  int first = b.index() * args.passes * args.units_per_pass;
  if (first >= args.units) return;
  const int lane = b.thread % 32;
  const uint32_t unit_bytes = down_unit_bytes(args.storage), bytes = args.units_per_pass * unit_bytes;
#pragma unroll 1
  for (int pass = 0; pass < args.passes; ++pass, first += args.units_per_pass) {
#pragma unroll 1
    for (int begin = 0; begin < count; begin += args.experts_per_page) {
      const int here = min(args.experts_per_page, count - begin);
      if (lane == 0) claim_page(b, bytes * here);
      __syncwarp();
      if (lane < here)
        ptx::bulk_copy(b.shared.pages[b.page.place] + lane * bytes,
                       args.pages + (static_cast<size_t>(b.shared.experts[begin + lane]) * args.units + first) * unit_bytes,
                       bytes, &b.shared.page_full[b.page.place], policy);
      __syncwarp();
      b.page.next();
    }
  }
}

}  // namespace kilotoken::stack
