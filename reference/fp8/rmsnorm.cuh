// y = x / sqrt(mean(x^2) + epsilon) * weight. Sixteen threads a row; the bits of reference/cpu/rmsnorm.h. Source: Zhang and Sennrich,
// "Root Mean Square Layer Normalization", 2019, equation 4.
#pragma once

#include "device.h"
#include "lanes.cuh"

namespace kilotoken::fp8 {

// One warp a block; its first half warp does the row, its second the same again, so that all threads take part in shuffles.
static __global__ void rmsnorm_kernel(const float* x, const float* weight, uint32_t cols, float epsilon, float* y) {
  x += static_cast<size_t>(blockIdx.x) * cols;
  y += static_cast<size_t>(blockIdx.x) * cols;
  float squares = 0.0f;
  for (uint32_t i = lane_of_thread(); i < cols; i += kLanes) squares = fmaf(x[i], x[i], squares);
  const float sum = broadcast(halve(squares));
  const float inverse = 1.0f / sqrtf(sum / static_cast<float>(cols) + epsilon);
  for (uint32_t i = threadIdx.x; i < cols; i += 32) y[i] = x[i] * inverse * weight[i];
}

// x, y: [rows][cols], apart; weight: [cols].
inline void rmsnorm(const float* x, const float* weight, size_t rows, size_t cols, float epsilon, float* y, cudaStream_t stream) {
  rmsnorm_kernel<<<static_cast<unsigned>(rows), 32, 0, stream>>>(x, weight, static_cast<uint32_t>(cols), epsilon, y);
  check(cudaGetLastError(), "launching a norm");
}

}  // namespace kilotoken::fp8
