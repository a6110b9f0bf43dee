// y = x W^T. A half warp makes one output: lane j takes the columns k with k % 16 == j in ascending order, each step fused. With FP8
// weights the lanes of 128 columns are folded into running lanes with the block's scale; at the end the lanes are halved. That is
// the sum of reference/cpu/linear.h, so the bits are the same, and they do not depend on how many rows x has.
#pragma once

#include "core/bf16.h"
#include "core/e2m1.h"
#include "core/e4m3.h"
#include "core/e8m0.h"
#include "lanes.cuh"
#include "weights.h"

namespace kilotoken::fp8 {

// What the kernel needs of a Linear.
struct LinearView {
  const void* codes;
  const void* scales;
  uint32_t rows, cols;
  uint32_t group_rows, group_scale_rows, scale_cols;
  uint64_t codes_bytes, scales_bytes;  // from one matrix of a stack to the next
};

inline LinearView view(const Linear& w) {
  return {w.codes.data(), w.scales.data(), static_cast<uint32_t>(w.rows), static_cast<uint32_t>(w.cols), static_cast<uint32_t>(w.group_rows),
          static_cast<uint32_t>(w.group_scale_rows()), static_cast<uint32_t>(w.scale_cols()), w.codes_bytes(), w.scales_bytes()};
}

// The weight in row n, column k of matrix `which`, without the scale of its FP8 block.
template <Format F>
__device__ inline float weight_at(const LinearView& w, uint32_t which, uint32_t n, uint32_t k) {
  const uint8_t* codes = static_cast<const uint8_t*>(w.codes) + which * w.codes_bytes;
  const uint64_t i = static_cast<uint64_t>(n) * w.cols + k;
  if constexpr (F == Format::kFp8) return e4m3_to_float(codes[i]);
  if constexpr (F == Format::kMxfp4) {
    const uint8_t scale = (static_cast<const uint8_t*>(w.scales) + which * w.scales_bytes)[i / 32];
    const uint8_t byte = codes[i / 2];
    return e2m1_to_float((k & 1) != 0 ? byte >> 4 : byte & 0xf) * e8m0_to_float(scale);
  }
  if constexpr (F == Format::kBf16) return bf16_to_float(reinterpret_cast<const uint16_t*>(codes)[i]);
  if constexpr (F == Format::kF32) return reinterpret_cast<const float*>(codes)[i];
  return 0.0f;
}

// y[m] = row n of matrix `which` times row x + m * x_stride, for M rows at once. Valid in lane 0.
template <Format F, int M>
__device__ inline void row_products(const LinearView& w, uint32_t which, uint32_t n, const float* x, size_t x_stride, float (&y)[M]) {
  const uint32_t lane = lane_of_thread();
  float total[M];
#pragma unroll
  for (int m = 0; m < M; ++m) total[m] = 0.0f;
  if constexpr (F == Format::kFp8) {
    const float* scales = reinterpret_cast<const float*>(static_cast<const uint8_t*>(w.scales) + which * w.scales_bytes) +
                          static_cast<uint64_t>(n / w.group_rows * w.group_scale_rows + n % w.group_rows / 128) * w.scale_cols;
    for (uint32_t begin = 0; begin < w.cols; begin += 128) {
      const uint32_t end = begin + 128 < w.cols ? begin + 128 : w.cols;
      float block[M];
#pragma unroll
      for (int m = 0; m < M; ++m) block[m] = 0.0f;
#pragma unroll 4
      for (uint32_t k = begin + lane; k < end; k += kLanes) {
        const float weight = weight_at<F>(w, which, n, k);
#pragma unroll
        for (int m = 0; m < M; ++m) block[m] = fmaf(weight, x[m * x_stride + k], block[m]);
      }
      const float scale = scales[begin / 128];
#pragma unroll
      for (int m = 0; m < M; ++m) total[m] = fmaf(scale, block[m], total[m]);
    }
  } else {
#pragma unroll 4
    for (uint32_t k = lane; k < w.cols; k += kLanes) {
      const float weight = weight_at<F>(w, which, n, k);
#pragma unroll
      for (int m = 0; m < M; ++m) total[m] = fmaf(weight, x[m * x_stride + k], total[m]);
    }
  }
#pragma unroll
  for (int m = 0; m < M; ++m) y[m] = halve(total[m]);
}

inline constexpr int kLinearThreads = 128;
inline constexpr int kLinearOutputs = kLinearThreads / kLanes;  // weight rows a block

// x: [rows][cols]; y: [rows][y_stride], of which this matrix fills w.rows from its first.
template <Format F, int M>
__global__ void __launch_bounds__(kLinearThreads) linear_kernel(LinearView w, const float* x, float* y, size_t y_stride) {
  const uint32_t n = blockIdx.x * kLinearOutputs + threadIdx.x / kLanes;
  const uint32_t row = blockIdx.y * M;
  float sums[M];
  row_products<F, M>(w, 0, n < w.rows ? n : w.rows - 1, x + static_cast<size_t>(row) * w.cols, w.cols, sums);
  if (n >= w.rows || lane_of_thread() != 0) return;
#pragma unroll
  for (int m = 0; m < M; ++m) y[(row + m) * y_stride + n] = sums[m];
}

template <Format F>
void launch_linear(const Linear& w, const float* x, size_t rows, float* y, size_t y_stride, cudaStream_t stream) {
  const unsigned columns = static_cast<unsigned>((w.rows + kLinearOutputs - 1) / kLinearOutputs);
  const size_t eights = rows / 8 * 8;
  if (eights > 0) {
    const dim3 grid(columns, static_cast<unsigned>(eights / 8));
    linear_kernel<F, 8><<<grid, kLinearThreads, 0, stream>>>(view(w), x, y, y_stride);
    check(cudaGetLastError(), "launching a linear");
  }
  if (rows > eights) {
    const dim3 grid(columns, static_cast<unsigned>(rows - eights));
    linear_kernel<F, 1><<<grid, kLinearThreads, 0, stream>>>(view(w), x + eights * w.cols, y + eights * y_stride, y_stride);
    check(cudaGetLastError(), "launching a linear");
  }
}

// x: [rows][w.cols], as the linear is to see it; y: [rows][y_stride].
inline void linear(const Linear& w, const float* x, size_t rows, float* y, size_t y_stride, cudaStream_t stream) {
  switch (w.format) {
    case Format::kFp8: return launch_linear<Format::kFp8>(w, x, rows, y, y_stride, stream);
    case Format::kMxfp4: return launch_linear<Format::kMxfp4>(w, x, rows, y, y_stride, stream);
    case Format::kBf16: return launch_linear<Format::kBf16>(w, x, rows, y, y_stride, stream);
    case Format::kF32: return launch_linear<Format::kF32>(w, x, rows, y, y_stride, stream);
  }
}

// One matrix of a stack for each (row, choice): pair p = row * choices + choice uses matrix experts[p] and reads row p / share of x.
// y: [pairs][w.rows].
template <Format F>
__global__ void __launch_bounds__(kLinearThreads)
    expert_linear_kernel(LinearView w, const int32_t* experts, uint32_t share, const float* x, float* y) {
  const uint32_t n = blockIdx.x * kLinearOutputs + threadIdx.x / kLanes, pair = blockIdx.y;
  float sum[1];
  row_products<F, 1>(w, static_cast<uint32_t>(experts[pair]), n < w.rows ? n : w.rows - 1, x + static_cast<size_t>(pair / share) * w.cols, 0, sum);
  if (n < w.rows && lane_of_thread() == 0) y[static_cast<size_t>(pair) * w.rows + n] = sum[0];
}

// share: pairs that read the same row of x (the choices of a row, or 1 when every pair has its own).
inline void expert_linear(const Linear& w, const int32_t* experts, size_t pairs, size_t share, const float* x, float* y, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((w.rows + kLinearOutputs - 1) / kLinearOutputs), static_cast<unsigned>(pairs));
  const uint32_t rows_share = static_cast<uint32_t>(share);
  switch (w.format) {
    case Format::kFp8: expert_linear_kernel<Format::kFp8><<<grid, kLinearThreads, 0, stream>>>(view(w), experts, rows_share, x, y); break;
    case Format::kMxfp4: expert_linear_kernel<Format::kMxfp4><<<grid, kLinearThreads, 0, stream>>>(view(w), experts, rows_share, x, y); break;
    case Format::kBf16: expert_linear_kernel<Format::kBf16><<<grid, kLinearThreads, 0, stream>>>(view(w), experts, rows_share, x, y); break;
    case Format::kF32: expert_linear_kernel<Format::kF32><<<grid, kLinearThreads, 0, stream>>>(view(w), experts, rows_share, x, y); break;
  }
  check(cudaGetLastError(), "launching an expert linear");
}

}  // namespace kilotoken::fp8
