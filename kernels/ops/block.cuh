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

inline constexpr int kQueryStride = 192 + 8;  // elements; the padding spreads rows over banks

struct Shared {
  alignas(128) uint8_t pages[kPages][kPageBytes];
  alignas(128) uint8_t input[kInputBytes];
  alignas(128) float input_scales[kInputBytes / kRows / kQuantGroup * kRows];  // [k / 128][8]
  union {
    alignas(128) float4 finish[2][2][kFragmentThreads];  // [slot][warpgroup][thread]: accumulators on their way to the finishing warps
    float scratch[16 * kValueDim];                     // of whatever the math warps do between products
  };
  alignas(16) uint16_t query[2][kRows][kQueryStride];  // a head's queries as high and low BF16 parts
  alignas(16) float small[kMaxExperts];
  double wide[kMathThreads + 8];
  float factor[kRows];                               // by row: of the norm, or a rescaling
  float expert_weight[kMaxStepExperts][kRows];
  float finish_scratch[2][kRows];
  uint16_t experts[kMaxStepExperts];                 // ids in ascending order, as the finishing warps know them; a position here is an expert's rank
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

// Where an operation runs. Operations that are no matrix products get a copy and are functions of their own.
struct Place {
  Shared& shared;
  SessionState* state;
  Mailbox* mailbox;
  uint32_t instruction;  // in progress, for faults

  __device__ __forceinline__ int index() const { return static_cast<int>(blockIdx.x); }
  __device__ __forceinline__ int count() const { return static_cast<int>(gridDim.x); }
  __device__ __forceinline__ ptx::Fault* fault() const { return &mailbox->fault; }
};

// One role's walk through the rings; lives in registers.
struct Block : Place {
  Turn<kPages> page;
  Turn<2> slot;
  uint32_t input_phase = 0;

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

// The norm's factor of `row`; all lanes of a warp. In two steps, so that other loads can start in between.
__device__ __forceinline__ float norm_squares(const Norm& norm, int row) {
  float sum = 0.0f;
  if (norm.squares == nullptr) return sum;
#pragma unroll
  for (int i = 0; i < kMaxHidden / kQuantGroup / 32; ++i) {
    const int g = i * 32 + (threadIdx.x & 31);
    if (g < norm.groups) sum += __ldcg(norm.squares + g * kRows + row);
  }
  return sum;
}
__device__ __forceinline__ float norm_factor(const Norm& norm, float squares) {
  return norm.squares == nullptr ? 1.0f : rsqrtf(__fdividef(warp_sum(squares), norm.width) + norm.epsilon);
}

// Order-preserving integer of a number that is not NaN; larger is larger. Equal for +0 and -0.
__device__ __forceinline__ uint32_t order_key(float x) {
  const uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// --- parts of a tile: partial sums over k, added in ascending k

__device__ __forceinline__ float4 operator+(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
__device__ __forceinline__ float4 operator*(float4 a, float b) { return make_float4(a.x * b, a.y * b, a.z * b, a.w * b); }

// Sums of kValues elements (float or float4) at `offset`, `offset` + `stride`, ... floats of each part of `tile`. Loads of several parts are in flight at
// once: the sum is short and the memory far.
template <class T, int kValues>
__device__ __forceinline__ void sum_parts(const Parts& parts, int tile, int offset, int stride, T (&sum)[kValues]) {
  constexpr int kAtOnce = kValues * sizeof(T) > 16 ? 3 : 6;
  const Tiling& t = parts.tiling;
  const float* from = parts.data + static_cast<size_t>(tile) * kPartFloats + offset;
  const size_t next = static_cast<size_t>(t.tiles) * kPartFloats;
#pragma unroll
  for (int i = 0; i < kValues; ++i) sum[i] = T{};
#pragma unroll 1
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

// A group whose largest magnitude is `amax`: its scale is amax / 448, and values are multiplied by the inverse (the reference divides; the two differ by
// one unit in the last place before rounding to three bits).
struct Quantiser {
  float scale, inverse;
};
__device__ __forceinline__ Quantiser quantiser(float amax) {
  if (!(amax > 0.0f)) return {1.0f, 1.0f};
  return {amax * (1.0f / 448.0f), __fdividef(448.0f, amax)};
}

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
__device__ __forceinline__ float swiglu_value(float gate, float up) { return gate * sigmoid(gate) * up; }

// One value as high and low part; together 16 significant bits.
__device__ __forceinline__ void store_split(const Inputs& out, int row, int k, float x) {
  const uint16_t high = bf16_of(x);
  out.high[bf16_input_index(row, k)] = high;
  out.low[bf16_input_index(row, k)] = bf16_of(x - bf16_value(high));
}

}  // namespace kilotoken::stack
