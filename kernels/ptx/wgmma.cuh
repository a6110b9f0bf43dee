// Hopper's warpgroup matrix product with the weights as M (64 rows) and the eight rows of a step as N. D = A B, or D += A B.
// The N = 8 accumulator is four binary32 a thread: rows 16 w + l/4 and + 8 (w: warp of the group, l: lane), columns 2 (l % 4) and + 1.
// Measured (H200): one K = 32 product of E4M3 is already not exact (3e-5 relative); one long chain is up to 10 % wrong. So every
// 32 of k start a fresh accumulator and are added in binary32 by the caller.
// Source: PTX ISA 9.0, "wgmma.mma_async", "matrix descriptor".
#pragma once

#include <cstdint>

#include "memory.cuh"

namespace kilotoken::ptx {

// A k-major operand without swizzle: 8 rows by 16 bytes are 128 consecutive bytes (a core matrix); `along_k` bytes lead to the next 16
// bytes of k, `along_rows` to the next 8 rows.
__device__ __forceinline__ uint64_t descriptor(uint32_t shared, uint32_t along_k, uint32_t along_rows) {
  return static_cast<uint64_t>((shared & 0x3ffffu) >> 4) | (static_cast<uint64_t>(along_k >> 4) << 16) |
         (static_cast<uint64_t>(along_rows >> 4) << 32);
}

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// E4M3 [64 x 32] from registers times E4M3 [32 x 8] from shared memory; a fresh accumulator.
__device__ __forceinline__ void product_e4m3(float (&d)[4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, p, 1, 1; }"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// The same with A from shared memory.
__device__ __forceinline__ void product_e4m3(float (&d)[4], uint64_t a, uint64_t b) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%0, %1, %2, %3}, %4, %5, p, 1, 1; }"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "l"(a), "l"(b));
}

// BF16 [64 x 16] times BF16 [16 x 8], both from shared memory; adds to D if kAdd.
template <bool kAdd>
__device__ __forceinline__ void product_bf16(float (&d)[4], uint64_t a, uint64_t b) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %6, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, p, 1, 1, 0, 0; }"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "l"(a), "l"(b), "n"(kAdd ? 1 : 0));
}

}  // namespace kilotoken::ptx
