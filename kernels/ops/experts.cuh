// What both halves of the expert pair share: which experts the step has chosen, how MXFP4 codes and scales become numbers, and how h goes from one to the other.
#pragma once

#include "products.cuh"

namespace kilotoken::stack {

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

// --- MXFP4

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

}  // namespace kilotoken::stack
