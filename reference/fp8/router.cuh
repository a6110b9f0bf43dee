// Which experts a row uses and with what weight: of p = sigmoid(logits) the experts with the largest p + correction bias are chosen, ties
// to the lowest index, and weighted by their p, divided by the sum of the chosen in ascending index.
// Source: DeepSeek-V3 technical report, section 2.1.2 (auxiliary-loss-free balancing), as the MiMo-V2 configs use it.
#pragma once

#include "core/ties.h"
#include "device.h"
#include "lanes.cuh"
#include "target.h"

namespace kilotoken::fp8 {

struct RouterRule {
  uint32_t experts, chosen;  // chosen <= kMostExpertsPerToken
  bool normalise;
  float scale;
};

// A warp a row: `chosen` times the best expert that is not taken yet.
static __global__ void choose_experts_kernel(RouterRule rule, const float* p, const float* bias, int32_t* experts, float* weights, uint8_t* touched) {
  extern __shared__ uint8_t taken[];  // [experts]
  __shared__ int ids[kMostExpertsPerToken];
  p += static_cast<size_t>(blockIdx.x) * rule.experts;
  for (uint32_t e = threadIdx.x; e < rule.experts; e += 32) taken[e] = 0;
  __syncwarp();
  for (uint32_t slot = 0; slot < rule.chosen; ++slot) {
    float best = 0.0f;
    int best_id = -1;
    for (uint32_t e = threadIdx.x; e < rule.experts; e += 32) {
      const float value = p[e] + bias[e];
      if (!taken[e] && (best_id < 0 || ranks_before(value, static_cast<int>(e), best, best_id))) best = value, best_id = static_cast<int>(e);
    }
    for (int stride = 16; stride > 0; stride /= 2) {
      const float other = __shfl_xor_sync(kWarp, best, stride);
      const int other_id = __shfl_xor_sync(kWarp, best_id, stride);
      if (other_id >= 0 && (best_id < 0 || ranks_before(other, other_id, best, best_id))) best = other, best_id = other_id;
    }
    if (threadIdx.x == 0) {
      taken[best_id] = 1;
      uint32_t i = slot;  // kept in ascending order
      for (; i > 0 && ids[i - 1] > best_id; --i) ids[i] = ids[i - 1];
      ids[i] = best_id;
    }
    __syncwarp();
  }
  if (threadIdx.x != 0) return;
  float total = 0.0f;
  for (uint32_t i = 0; i < rule.chosen; ++i) total = total + p[ids[i]];
  const float divisor = rule.normalise ? total + 1e-20f : 1.0f;
  for (uint32_t i = 0; i < rule.chosen; ++i) {
    experts[blockIdx.x * rule.chosen + i] = ids[i];
    weights[blockIdx.x * rule.chosen + i] = p[ids[i]] / divisor * rule.scale;
    touched[ids[i]] = 1;
  }
}

// p: [rows][experts]; bias: [experts]; experts, weights: [rows][chosen], in ascending order of expert; touched: [experts], ones added.
inline void choose_experts(const RouterRule& rule, const float* p, const float* bias, size_t rows, int32_t* experts, float* weights,
                           uint8_t* touched, cudaStream_t stream) {
  choose_experts_kernel<<<static_cast<unsigned>(rows), 32, rule.experts, stream>>>(rule, p, bias, experts, weights, touched);
  check(cudaGetLastError(), "launching the router");
}

static __global__ void combine_kernel(const float* outputs, const float* weights, uint32_t chosen, uint32_t hidden, float* y) {
  const uint32_t c = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (c >= hidden) return;
  float sum = 0.0f;
  for (uint32_t i = 0; i < chosen; ++i) {
    const size_t pair = static_cast<size_t>(row) * chosen + i;
    sum = sum + weights[pair] * outputs[pair * hidden + c];
  }
  y[static_cast<size_t>(row) * hidden + c] = sum;
}

// y[row] = sum over a row's experts, in ascending index, of weight * output. outputs: [rows][chosen][hidden]; y: [rows][hidden].
inline void combine(const float* outputs, const float* weights, size_t rows, size_t chosen, size_t hidden, float* y, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((hidden + 127) / 128), static_cast<unsigned>(rows));
  combine_kernel<<<grid, 128, 0, stream>>>(outputs, weights, static_cast<uint32_t>(chosen), static_cast<uint32_t>(hidden), y);
  check(cudaGetLastError(), "launching the sum over experts");
}

}  // namespace kilotoken::fp8
