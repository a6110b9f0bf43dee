// What every operation sees of its block of threads: who it is, the shared memory, and small sums whose order never changes.
#pragma once

#include <cstdint>

#include "kernels/pages.h"
#include "kernels/persistent/instruction.h"
#include "kernels/persistent/state.h"
#include "kernels/ptx/memory.cuh"
#include "kernels/ptx/wgmma.cuh"

namespace kilotoken::stack {

// Roles of a block's warps: 0 .. 3 and 4 .. 7 multiply (and do all that is no matrix product), 8 and 9 finish tiles, 10 fetches, 11 rests.
inline constexpr int kFinishWarp = 8, kFetchWarp = 10, kRestWarp = 11;

struct Shared {
  alignas(128) uint8_t pages[kPages][kPageBytes];
  alignas(128) uint8_t input[kInputBytes];
  alignas(128) float input_scales[kInputBytes / kRows / kQuantGroup * kRows];  // [k / 128][8]
  union {
    alignas(128) float4 finish[2][2][kFragmentThreads];  // [slot][warpgroup][thread]: accumulators on their way to the finishing warps
    float scratch[16 * kValueDim];                     // of whatever the math warps do between products
  };
  alignas(16) float small[kMaxExperts];
  alignas(16) float query[192];
  double wide[kMathThreads + 8];
  float factor[kRows];                               // of the norm, by row
  float expert_weight[kMaxStepExperts][kRows];
  float finish_scratch[2][kRows];
  uint16_t experts[kMaxStepExperts];                 // ids in ascending order; a position here is an expert's rank
  uint16_t fetch_experts[kMaxStepExperts];           // the fetching warp's own copy: it runs ahead
  int expert_count;
  uint32_t rows, start;                              // of the step in progress, as SessionState has them
  alignas(16) Instruction fetched[3][2];             // by role
  uint64_t page_full[kPages], page_empty[kPages];
  uint64_t finish_full[2], finish_empty[2];
  uint64_t input_full;
};
static_assert(sizeof(Shared) <= 232448, "shared memory of a block on Hopper");

// A position in a ring of kSize places.
template <int kSize>
struct Turn {
  int place = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void next() {
    if (++place == kSize) {
      place = 0;
      phase ^= 1;
    }
  }
};

struct Block {
  Shared& shared;
  SessionState* state;
  Mailbox* mailbox;
  int index, count;
  uint32_t instruction;  // in progress, for faults
  Turn<kPages> page;     // of this role
  Turn<2> slot;
  uint32_t input_phase = 0;

  __device__ __forceinline__ ptx::Fault* fault() const { return &mailbox->fault; }
  __device__ __forceinline__ void wait(uint64_t* barrier, uint32_t parity, ptx::Wait what) const {
    ptx::barrier_wait(barrier, parity, fault(), what, instruction);
  }
};

__device__ __forceinline__ void math_sync() { ptx::group_sync<1, kMathThreads>(); }
__device__ __forceinline__ void finish_sync() { ptx::group_sync<2, kFinishThreads>(); }

// --- reductions over a warp; a butterfly, so every lane holds the same bits

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int stride = 16; stride > 0; stride /= 2) x += __shfl_xor_sync(~0u, x, stride);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int stride = 16; stride > 0; stride /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, stride));
  return x;
}

// The norm's factor of `row`; all lanes of a warp.
__device__ __forceinline__ float norm_factor(const Norm& norm, int row) {
  if (norm.squares == nullptr) return 1.0f;
  float sum = 0.0f;
  for (int g = threadIdx.x & 31; g < norm.groups; g += 32) sum += __ldcg(norm.squares + g * kRows + row);
  return 1.0f / sqrtf(warp_sum(sum) / norm.width + norm.epsilon);
}

// --- parts of a tile: partial sums over k, added in ascending k

__device__ __forceinline__ float4 operator+(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
__device__ __forceinline__ float4 operator*(float4 a, float b) { return make_float4(a.x * b, a.y * b, a.z * b, a.w * b); }

// Sums of kValues elements (float or float4) at `offset`, `offset` + `stride`, ... floats of each part of `tile`. Loads of twelve parts are in flight at once:
// the sum is short and the memory far.
template <class T, int kValues>
__device__ __forceinline__ void sum_parts(const Parts& parts, int tile, int offset, int stride, T (&sum)[kValues]) {
  constexpr int kAtOnce = kValues * sizeof(T) > 8 ? 6 : 12;
  const Tiling& t = parts.tiling;
  const float* from = parts.data + static_cast<size_t>(tile) * kPartFloats + offset;
  const size_t next = static_cast<size_t>(t.tiles) * kPartFloats;
#pragma unroll
  for (int i = 0; i < kValues; ++i) sum[i] = T{};
  for (int slice = 0; slice < t.slices; slice += kAtOnce, from += kAtOnce * next) {
    T loaded[kAtOnce][kValues];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
#pragma unroll
      for (int i = 0; i < kValues; ++i)
        loaded[n][i] = slice + n < t.slices ? __ldcg(reinterpret_cast<const T*>(from + n * next + i * stride)) : T{};
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) sum[i] = sum[i] + loaded[n][i];
    }
  }
}

// --- inputs of the next linear

// Round to nearest even, saturating; the low byte is x's code.
__device__ __forceinline__ uint16_t e4m3_pair(float x, float y) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(y), "f"(x));
  return codes;
}

__device__ __forceinline__ uint16_t bf16_of(float x) {
  uint16_t code;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(code) : "f"(x));
  return code;
}

__device__ __forceinline__ float bf16_value(uint16_t code) { return __uint_as_float(static_cast<uint32_t>(code) << 16); }

// The scale of a group whose largest magnitude is `amax`, as the reference has it.
__device__ __forceinline__ float quant_scale(float amax) { return amax > 0.0f ? amax / 448.0f : 1.0f; }

// One value as high and low part; together 16 significant bits.
__device__ __forceinline__ void store_split(const Inputs& out, int row, int k, float x) {
  const uint16_t high = bf16_of(x);
  out.high[bf16_input_index(row, k)] = high;
  out.low[bf16_input_index(row, k)] = bf16_of(x - bf16_value(high));
}

}  // namespace kilotoken::stack
