// The second half of the expert pair: h of the chosen experts times their down rows. A block holds a few tiles of one 64-k slice and goes through all experts; it begins with those whose h
// is complete before the last round of up products.
#pragma once

#include "experts.cuh"

namespace kilotoken::stack {

// down_experts_per_page are powers of two.
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
  const auto await_page_or_two = [&](bool two) {
    if (two) return await_pages(b, page);
    const uint8_t* one[1];
    await_pages(b, one);
    page[0] = page[1] = one[0];
  };
  int begin = 0;
#pragma unroll 1
  for (;;) {
#pragma unroll 1
    for (; begin + kAtOnce <= there; begin += kAtOnce) {
      await_page_or_two(kPagesAtOnce == 2);
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
  await_page_or_two(second);
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
      if (lane == 0) claim_page<kDownPagesInFlight>(b, bytes * here);
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
