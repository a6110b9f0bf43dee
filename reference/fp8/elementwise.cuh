// The ops that look at one element at a time: SwiGLU, sigmoid, the residual sum.
#pragma once

#include "device.h"
#include "exponential.cuh"

namespace kilotoken::fp8 {

static __global__ void swiglu_kernel(const float* gate, const float* up, size_t count, float* y) {
  const size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float silu = gate[i] / (1.0f + exponential(0.0f - gate[i]));
  y[i] = silu * up[i];
}

static __global__ void sigmoid_kernel(const float* x, size_t count, float* y) {
  const size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) y[i] = 1.0f / (1.0f + exponential(0.0f - x[i]));
}

static __global__ void add_kernel(const float* branch, size_t count, float* hidden) {
  const size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) hidden[i] = hidden[i] + branch[i];
}

inline unsigned blocks_of_256(size_t count) { return static_cast<unsigned>((count + 255) / 256); }

// silu(gate) * up, without a clamp; y may be either.
inline void swiglu(const float* gate, const float* up, size_t count, float* y, cudaStream_t stream) {
  swiglu_kernel<<<blocks_of_256(count), 256, 0, stream>>>(gate, up, count, y);
  check(cudaGetLastError(), "launching SwiGLU");
}

inline void sigmoid(const float* x, size_t count, float* y, cudaStream_t stream) {
  sigmoid_kernel<<<blocks_of_256(count), 256, 0, stream>>>(x, count, y);
  check(cudaGetLastError(), "launching a sigmoid");
}

// hidden += branch
inline void add(const float* branch, size_t count, float* hidden, cudaStream_t stream) {
  add_kernel<<<blocks_of_256(count), 256, 0, stream>>>(branch, count, hidden);
  check(cudaGetLastError(), "launching a sum");
}

}  // namespace kilotoken::fp8
