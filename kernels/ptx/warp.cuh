// What one warp does with its registers: small matrix products, their operands from shared memory, copies of sixteen bytes, conversions. One wrapper an
// instruction, as in memory.cuh.
// Source: PTX ISA 9.0, "mma.sync m16n8k16", "ldmatrix", "cp.async", "cvt".
#pragma once

#include <cstdint>

#include "kernels/ptx/memory.cuh"

namespace kilotoken::ptx {

// BF16 products on 16 x 16 times 16 x 8: d += a b. Lane 4 g + p: a0, a2 are of row g, a1, a3 of row g + 8, a0, a1 of k 2 p and 2 p + 1, a2, a3 of those + 8; b0, b1 the same k of
// column g; d0, d1 are row g, columns 2 p and 2 p + 1, d2, d3 row g + 8.
__device__ __forceinline__ void product_16x8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The four 8 x 8 matrices whose rows the lanes name by shared-memory addresses, as they are or each transposed.
__device__ __forceinline__ void load_rows(uint32_t (&a)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(row)
               : "memory");
}
__device__ __forceinline__ void load_columns(uint32_t (&a)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(row)
               : "memory");
}
__device__ __forceinline__ void load_transposed(uint32_t (&a)[4], const void* row) { load_columns(a, shared_address(row)); }

// Sixteen bytes to shared memory without a register; zeros if not `valid`.
__device__ __forceinline__ void copy_16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
// Of the calling thread's own copies: those since the last time are a group; all groups but the last kPending have arrived.
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory"); }

// Round to nearest even, saturating; the low byte is x's code.
__device__ __forceinline__ uint16_t e4m3_pair(float x, float y) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(y), "f"(x));
  return codes;
}

// Round to nearest even.
__device__ __forceinline__ uint16_t bf16_of(float x) {
  uint16_t code;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(code) : "f"(x));
  return code;
}

// Two values as BF16, x in the lower half.
__device__ __forceinline__ uint32_t bf16_pair(float x, float y) {
  uint32_t words;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words) : "f"(y), "f"(x));
  return words;
}

// 2^x.
__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// threadIdx.x, read here and now.
__device__ __forceinline__ uint32_t this_thread() {
  uint32_t x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return x;
}

// The same number, of which the compiler does not know it: what is derived from it is not kept in registers for the next time.
__device__ __forceinline__ uint32_t passing(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

}  // namespace kilotoken::ptx
