// y = x W^T for one row of x: the linear as an engine without fusion would have it. A group of threads makes a few neighbouring outputs, each
// thread taking every T-th 16 bytes of a weight row, so that a warp reads whole lines and many loads are in flight; sums run in binary32.
// The order of a sum is fixed by the matrix alone: 16 bytes ascending, a thread's pieces ascending, threads by halving, warps ascending.
// It is not the order of linear.cuh; test/gpu/reference_standard.cu holds both against the same bound.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <stdexcept>

#include "linear.cuh"

namespace kilotoken::fp8 {

// One row into a linear. Quantised: codes E4M3 [cols] and scales [cols / 128], else values [cols].
struct StandardInput {
  const float* values;
  const uint8_t* codes;
  const float* scales;
};

inline constexpr int kStandardThreads = 128;

__device__ inline uint4 load_once(const uint4* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

// Four E4M3 codes of a word, lowest byte first.
__device__ inline void widen_e4m3(uint32_t word, float* to) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const __half2_raw pair = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(word >> (16 * half)), __NV_E4M3);
    const float2 two = __half22float2(__half2(pair));
    to[2 * half] = two.x;
    to[2 * half + 1] = two.y;
  }
}

// Eight E2M1 codes of a word, lowest nibble first, times 2^-14: their bits in the places of a binary16's, exact.
__device__ inline void widen_e2m1(uint32_t word, float* to) {
  const auto pair = [&](uint32_t sign, uint32_t magnitude, int i) {
    const uint32_t bits = (sign & 0x80008000u) | (magnitude & 0x0e000e00u);
    const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&bits));
    to[i] = two.x;
    to[i + 4] = two.y;
  };
  pair(word << 12, word << 9, 0);
  pair(word << 8, word << 5, 1);
  pair(word << 4, word << 1, 2);
  pair(word, word >> 3, 3);
}

// What 16 bytes of weights hold, and how many neighbouring rows a group makes.
template <Format F>
inline constexpr int kPerChunk = F == Format::kFp8 ? 16 : F == Format::kMxfp4 ? 32 : F == Format::kBf16 ? 8 : 4;
template <Format F, int T>
inline constexpr int kStandardRows = F == Format::kF32 ? 1 : T <= 16 ? 8 : 4;
// 16 bytes a thread has in flight for each of its rows.
template <Format F, int T>
inline constexpr int kStandardDepth = T <= 16 ? 1 : F == Format::kF32 ? 4 : F == Format::kMxfp4 ? 2 : T == 128 ? 3 : 2;

template <Format F>
__device__ inline void widen_chunk(const uint4& v, float (&to)[kPerChunk<F>]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (F == Format::kFp8) widen_e4m3(words[i], to + 4 * i);
    if constexpr (F == Format::kMxfp4) widen_e2m1(words[i], to + 8 * i);
    if constexpr (F == Format::kBf16) to[2 * i] = bits_float(words[i] << 16), to[2 * i + 1] = bits_float(words[i] & 0xffff0000u);
    if constexpr (F == Format::kF32) to[i] = bits_float(words[i]);
  }
}

// The inputs that face chunk c; returns their scale.
template <Format F, bool kQuantised>
__device__ inline float inputs_of(const StandardInput& in, uint32_t c, float (&x)[kPerChunk<F>]) {
  constexpr int kEach = kPerChunk<F>;
  if constexpr (kQuantised) {
#pragma unroll
    for (int i = 0; i < kEach / 16; ++i) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(in.codes) + c * (kEach / 16) + i);
      widen_e4m3(v.x, x + 16 * i);
      widen_e4m3(v.y, x + 16 * i + 4);
      widen_e4m3(v.z, x + 16 * i + 8);
      widen_e4m3(v.w, x + 16 * i + 12);
    }
    return __ldg(in.scales + c * kEach / 128);
  } else {
#pragma unroll
    for (int i = 0; i < kEach / 4; ++i) {
      const float4 v = __ldg(reinterpret_cast<const float4*>(in.values) + c * (kEach / 4) + i);
      x[4 * i] = v.x, x[4 * i + 1] = v.y, x[4 * i + 2] = v.z, x[4 * i + 3] = v.w;
    }
    return 1.0f;
  }
}

// Rows n .. n + R - 1 of matrix `which`, which share their FP8 scales; the sums are valid in the group's first thread, after its warp's part.
template <Format F, bool kQuantised, int T, int R>
__device__ inline void standard_products(const LinearView& w, uint32_t which, uint32_t n, const StandardInput& in, uint32_t thread, float (&sum)[R]) {
  constexpr int kEach = kPerChunk<F>, kDepth = kStandardDepth<F, T>;
  const uint32_t chunks = w.cols / kEach;
  const uint4* rows = reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(w.codes) + which * w.codes_bytes) + static_cast<uint64_t>(n) * chunks;
  const uint8_t* scale_bytes = static_cast<const uint8_t*>(w.scales) + which * w.scales_bytes;
  const float* fp8_scales =
      reinterpret_cast<const float*>(scale_bytes) + static_cast<uint64_t>(n / w.group_rows * w.group_scale_rows + n % w.group_rows / 128) * w.scale_cols;
#pragma unroll
  for (int r = 0; r < R; ++r) sum[r] = 0.0f;
  for (uint32_t first = thread; first < chunks; first += T * kDepth) {
    uint4 codes[kDepth][R];
#pragma unroll
    for (int d = 0; d < kDepth; ++d)
#pragma unroll
      for (int r = 0; r < R; ++r)
        if (first + d * T < chunks) codes[d][r] = load_once(rows + static_cast<uint64_t>(r) * chunks + first + d * T);
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const uint32_t c = first + d * T;
      if (c >= chunks) break;
      float x[kEach];
      float scale = inputs_of<F, kQuantised>(in, c, x);
      if constexpr (F == Format::kFp8) scale = scale * __ldg(fp8_scales + c * kEach / 128);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        float weights[kEach];
        widen_chunk<F>(codes[d][r], weights);
        float part = 0.0f;
#pragma unroll
        for (int i = 0; i < kEach; ++i) part = fmaf(weights[i], x[i], part);
        if constexpr (F == Format::kMxfp4) {
          const float block = e8m0_to_float(__ldg(scale_bytes + static_cast<uint64_t>(n + r) * chunks + c));
          sum[r] = fmaf(part * 16384.0f, scale * block, sum[r]);  // 2^14 of widen_e2m1
        } else if constexpr (F == Format::kFp8) {
          sum[r] = fmaf(part, scale, sum[r]);
        } else {
          sum[r] = sum[r] + part;
        }
      }
    }
  }
  constexpr int kWidth = T < 32 ? T : 32;
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int stride = kWidth / 2; stride > 0; stride /= 2) sum[r] = sum[r] + __shfl_down_sync(kWarp, sum[r], stride, kWidth);
}

// experts null: matrix 0 and the one row of x. Else pair p = blockIdx.y uses matrix experts[p] and row p / share of x.
template <Format F, bool kQuantised, int T>
__global__ void __launch_bounds__(kStandardThreads)
    standard_linear_kernel(LinearView w, const int32_t* experts, uint32_t share, StandardInput in, float* y) {
  constexpr int R = kStandardRows<F, T>, kGroups = kStandardThreads / T, kWarps = T / 32;
  const uint32_t pair = blockIdx.y, group = threadIdx.x / T, thread = threadIdx.x % T;
  const uint32_t n = (blockIdx.x * kGroups + group) * R;
  const uint32_t row = pair / share;
  in.values += static_cast<size_t>(row) * w.cols;
  in.codes += static_cast<size_t>(row) * w.cols;
  in.scales += static_cast<size_t>(row) * (w.cols / 128);
  const bool inside = n < w.rows;
  float sum[R];
  standard_products<F, kQuantised, T, R>(w, experts != nullptr ? static_cast<uint32_t>(experts[pair]) : 0, inside ? n : 0, in, thread, sum);
  y += static_cast<size_t>(pair) * w.rows + n;
  if constexpr (kWarps > 1) {
    __shared__ float parts[kWarps][R];
    if (thread % 32 == 0)
#pragma unroll
      for (int r = 0; r < R; ++r) parts[thread / 32][r] = sum[r];
    __syncthreads();
    if (thread < R && inside) {
      float total = parts[0][thread];
      for (int warp = 1; warp < kWarps; ++warp) total = total + parts[warp][thread];
      y[thread] = total;
    }
  } else if (thread == 0 && inside) {
#pragma unroll
    for (int r = 0; r < R; ++r) y[r] = sum[r];
  }
}

template <Format F, bool kQuantised, int T>
void launch_standard_linear(const Linear& w, const int32_t* experts, size_t pairs, size_t share, const StandardInput& in, float* y, cudaStream_t stream) {
  constexpr size_t kRows = kStandardRows<F, T>, kBlock = kRows * (kStandardThreads / T);
  if (w.rows % kRows != 0 || w.group_rows % kRows != 0 || w.cols % kPerChunk<F> != 0) throw std::logic_error("a matrix that the standard linear cannot divide");
  const dim3 grid(static_cast<unsigned>((w.rows + kBlock - 1) / kBlock), static_cast<unsigned>(pairs));
  standard_linear_kernel<F, kQuantised, T><<<grid, kStandardThreads, 0, stream>>>(view(w), experts, static_cast<uint32_t>(share), in, y);
  check(cudaGetLastError(), "launching a linear");
}

// Long rows are shared by more threads.
template <Format F, bool kQuantised>
void launch_standard_linear(const Linear& w, const int32_t* experts, size_t pairs, size_t share, const StandardInput& in, float* y, cudaStream_t stream) {
  const size_t chunks = w.cols / kPerChunk<F>;
  if (chunks >= 256) return launch_standard_linear<F, kQuantised, 128>(w, experts, pairs, share, in, y, stream);
  if (chunks >= 64) return launch_standard_linear<F, kQuantised, 32>(w, experts, pairs, share, in, y, stream);
  if (chunks >= 16) return launch_standard_linear<F, kQuantised, 16>(w, experts, pairs, share, in, y, stream);
  return launch_standard_linear<F, kQuantised, 8>(w, experts, pairs, share, in, y, stream);
}

// y: [pairs][w.rows]; experts: [pairs] on the device, or null with pairs = 1. FP8 and MXFP4 weights take codes where `in` has them. cols is a multiple of 128 for
// quantised rows, w.rows of 8.
inline void standard_linear(const Linear& w, const int32_t* experts, size_t pairs, size_t share, const StandardInput& in, float* y, cudaStream_t stream) {
  const bool quantised = in.codes != nullptr;
  switch (w.format) {
    case Format::kFp8:
      return quantised ? launch_standard_linear<Format::kFp8, true>(w, experts, pairs, share, in, y, stream)
                       : launch_standard_linear<Format::kFp8, false>(w, experts, pairs, share, in, y, stream);
    case Format::kMxfp4:
      return quantised ? launch_standard_linear<Format::kMxfp4, true>(w, experts, pairs, share, in, y, stream)
                       : launch_standard_linear<Format::kMxfp4, false>(w, experts, pairs, share, in, y, stream);
    case Format::kBf16: return launch_standard_linear<Format::kBf16, false>(w, experts, pairs, share, in, y, stream);
    case Format::kF32: return launch_standard_linear<Format::kF32, false>(w, experts, pairs, share, in, y, stream);
  }
}

}  // namespace kilotoken::fp8
