// The streaming matrix products: what all have in common, and a linear (E4M3 or BF16 weights); experts_up.cuh and experts_down.cuh are the expert pair. Two warpgroups share every page, each taking one half of
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

// Where the next kCount pages come to, and whether all are there. All are looked for at once: a branch costs a warp as much as ten instructions.
template <int kCount>
__device__ __forceinline__ bool look_for_pages(Block& b, const uint8_t* (&at)[kCount]) {
  Turn<kPages> turn = b.page;
  bool there = true;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    there = ptx::barrier_passed_already(&b.shared.page_full[turn.place], turn.phase) && there;
    at[i] = b.shared.pages[turn.place];
    turn.next();
  }
  return there;
}
template <int kCount>
__device__ __forceinline__ void wait_for_pages(Block& b) {
  Turn<kPages> turn = b.page;
#pragma unroll 1
  for (int i = 0; i < kCount; ++i) {
    b.wait(&b.shared.page_full[turn.place], turn.phase, ptx::Wait::kRingFull);
    turn.next();
  }
}

// The next kCount pages, which stay where they are until released. Not `wanted`: they may not be there.
template <int kCount>
__device__ __forceinline__ void await_pages(Block& b, const uint8_t* (&at)[kCount], bool wanted = true) {
  if (!look_for_pages(b, at) && wanted) wait_for_pages<kCount>(b);
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

// One lane. When fewer than kInFlight are on their way.
template <int kInFlight = kPagesInFlight>
__device__ __forceinline__ uint8_t* claim_page(Block& b, uint32_t bytes) {
  const int before = b.page.place - kInFlight;
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

// The warpgroup's halves of a page and of its inputs.
struct PageOperands {
  ptx::Operand a, x;
};
template <Format kFormat>
__device__ __forceinline__ PageOperands operands_of(Block& b, const uint8_t* page, int page_of_slice) {
  const int group = b.thread / 128;
  return {ptx::uniform_operand(ptx::shared_address(page) + group * 8192, 1024, 128),
          ptx::uniform_operand(ptx::shared_address(b.shared.input) + page_of_slice * 2048 + group * 1024, 128, kFormat == Format::kE4m3 ? 128 : kInputBytes / 2)};
}

template <>
struct PageProducts<Format::kE4m3> {
  float d[4][4], factor[4];
  // What promote() needs besides, while the products go on.
  __device__ __forceinline__ void prepare(Block& b, const uint8_t* page, int page_of_slice) {
    const int group = b.thread / 128;
    const float2 weight_scale = reinterpret_cast<const float2*>(page + kCodeBytes)[group];
    const float2 scale =
        *reinterpret_cast<const float2*>(&b.shared.input_scales[(page_of_slice * 2 + group) * kRows + b.thread % 4 * 2]);
    factor[0] = weight_scale.x * scale.x, factor[1] = weight_scale.x * scale.y;
    factor[2] = weight_scale.y * scale.x, factor[3] = weight_scale.y * scale.y;
  }
  __device__ __forceinline__ void multiply(const PageOperands& of) {
#pragma unroll
    for (int i = 0; i < 4; ++i) ptx::product_e4m3(d[i], of.a + i * 2048, of.x + i * 256);
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
  __device__ __forceinline__ void multiply(const PageOperands& of) {
    ptx::product_bf16<false>(d, of.a, of.x);
#pragma unroll
    for (int i = 1; i < 4; ++i) ptx::product_bf16<true>(d, of.a + i * 2048, of.x + i * 256);
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
  // Half of a page's time lies between two products of a warp: where the operands are is found out while it is asked whether the pages are there.
  const uint8_t* at[kCount];
  const bool there = look_for_pages(b, at);
  int of_slice[kCount];
  PageOperands of[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    of_slice[i] = i == 0 ? (page == pages_of_unit ? 0 : page) : of_slice[i - 1] + 1 == pages_of_unit ? 0 : of_slice[i - 1] + 1;
    of[i] = operands_of<kFormat>(b, at[i], of_slice[i]);
  }
  if (!there) wait_for_pages<kCount>(b);
  PageProducts<kFormat> p[kCount];
  ptx::products_begin();
#pragma unroll
  for (int i = 0; i < kCount; ++i) p[i].multiply(of[i]);
  ptx::products_commit();
#pragma unroll
  for (int i = 0; i < kCount; ++i) p[i].prepare(b, at[i], of_slice[i]);
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

}  // namespace kilotoken::stack
