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
// Kept as two words, of which only the first depends on the address: sums of 64 bits, and their way into the uniform registers that the product
// reads, took a third of the instructions of a page.
struct Operand {
  uint32_t low, high;
  __device__ __forceinline__ Operand operator+(uint32_t bytes) const { return {low + (bytes >> 4), high}; }
};
__device__ __forceinline__ Operand operand(uint32_t shared, uint32_t along_k, uint32_t along_rows) {
  return {shared >> 4 | (along_k >> 4) << 16, along_rows >> 4};
}

// The same for an address that all lanes of the warp share, said so that the compiler knows it: sums of it stay in uniform registers.
__device__ __forceinline__ Operand uniform_operand(uint32_t shared, uint32_t along_k, uint32_t along_rows) {
  const Operand o = operand(shared, along_k, along_rows);
  return {__shfl_sync(~0u, o.low, 0), o.high};
}

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// E4M3 [64 x 32] from registers times E4M3 [32 x 8] from shared memory; a fresh accumulator.
__device__ __forceinline__ void product_e4m3(float (&d)[4], const uint32_t (&a)[4], Operand b) {
  asm volatile(
      "{ .reg .pred p; .reg .b64 b; setp.ne.b32 p, 0, 0; mov.b64 b, {%8, %9};\n"
      "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%0, %1, %2, %3}, {%4, %5, %6, %7}, b, p, 1, 1; }"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.low), "r"(b.high));
}

// The same with A from shared memory.
__device__ __forceinline__ void product_e4m3(float (&d)[4], Operand a, Operand b) {
  asm volatile(
      "{ .reg .pred p; .reg .b64 a, b; setp.ne.b32 p, 0, 0; mov.b64 a, {%4, %5}; mov.b64 b, {%6, %7};\n"
      "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%0, %1, %2, %3}, a, b, p, 1, 1; }"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.low), "r"(a.high), "r"(b.low), "r"(b.high));
}

// BF16 [64 x 16] times BF16 [16 x 16], both from shared memory; adds to D if kAdd. Columns 0 .. 7 are d[0 .. 3], columns 8 .. 15 d[4 .. 7].
template <bool kAdd>
__device__ __forceinline__ void product_bf16(float (&d)[8], Operand a, Operand b) {
  asm volatile(
      "{ .reg .pred p; .reg .b64 a, b; setp.ne.b32 p, %12, 0; mov.b64 a, {%8, %9}; mov.b64 b, {%10, %11};\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, a, b, p, 1, 1, 0, 0; }"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
      : "r"(a.low), "r"(a.high), "r"(b.low), "r"(b.high), "n"(kAdd ? 1 : 0));
}

}  // namespace kilotoken::ptx
