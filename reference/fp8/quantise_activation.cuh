// Dynamic FP8 quantisation of a linear's input: per row and per 128 channels (the last group may be shorter), scale = amax / 448 (1 if
// the group is all zero), code = E4M3 of x / scale. What comes out is code * scale in binary32. A warp a group.
// Source: activation_scheme "dynamic" of the published FP8 checkpoints.
#pragma once

#include "core/e4m3.h"
#include "device.h"
#include "lanes.cuh"

namespace kilotoken::fp8 {

static __global__ void quantise_activation_kernel(const float* x, uint32_t cols, float* y) {
  const uint32_t begin = blockIdx.x * 128, end = begin + 128 < cols ? begin + 128 : cols;
  x += static_cast<size_t>(blockIdx.y) * cols;
  y += static_cast<size_t>(blockIdx.y) * cols;
  uint32_t largest = 0;  // magnitudes compare as their bits; a NaN is the largest
  for (uint32_t i = begin + threadIdx.x; i < end; i += 32) {
    const uint32_t magnitude = float_bits(x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  for (int stride = 16; stride > 0; stride /= 2) {
    const uint32_t other = __shfl_xor_sync(kWarp, largest, stride);
    largest = other > largest ? other : largest;
  }
  const float amax = bits_float(largest);
  const float scale = amax > 0.0f ? amax / kE4m3Max : 1.0f;
  for (uint32_t i = begin + threadIdx.x; i < end; i += 32) y[i] = e4m3_to_float(float_to_e4m3(x[i] / scale)) * scale;
}

// x, y: [rows][cols], apart.
inline void quantise_activation(const float* x, size_t rows, size_t cols, float* y, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((cols + 127) / 128), static_cast<unsigned>(rows));
  quantise_activation_kernel<<<grid, 32, 0, stream>>>(x, static_cast<uint32_t>(cols), y);
  check(cudaGetLastError(), "launching a quantisation");
}

}  // namespace kilotoken::fp8
