// Softmax attention over cached keys in three launches: scores, softmax with sink, weighted values.
//   l_j = scale * q . k_j;  w_j = exp(l_j - m);  out = sum_j w_j v_j / (exp(sink - m) + sum_j w_j),  m = max(sink, max_j l_j)
// Row r sees positions [first, end) with end = start + r + 1 and first the start of its window. Sums run as in
// reference/cpu/attention.h: a score over sixteen lanes, the mass over sixteen lanes from the row's own first key, values in
// ascending position. Source: MiMo-V2-Flash technical report, equations 2 and 3.
#pragma once

#include "core/bf16.h"
#include "device.h"
#include "exponential.cuh"
#include "lanes.cuh"
#include "rope_cache.cuh"

namespace kilotoken::fp8 {

struct AttentionStep {
  HeadLayout layout;
  uint32_t rows;
  uint32_t start;   // position of row 0
  uint32_t window;  // 0: no limit
  uint32_t stride;  // of a row of scores: the most keys any row sees
  float scale;

  __host__ __device__ uint32_t first(uint32_t row) const {
    const uint32_t position = start + row;
    return window != 0 && position + 1 > window ? position + 1 - window : 0;
  }
  __host__ __device__ uint32_t keys(uint32_t row) const { return start + row + 1 - first(row); }
};

__device__ inline float widen(uint16_t code) { return bf16_to_float(code); }
__device__ inline float widen(float x) { return x; }

inline constexpr int kScoreThreads = 128;

// A half warp a key.
template <class V>
__global__ void __launch_bounds__(kScoreThreads) scores_kernel(AttentionStep a, const float* qkv, const V* keys, float* scores) {
  const uint32_t j = blockIdx.x * (kScoreThreads / kLanes) + threadIdx.x / kLanes, h = blockIdx.y, row = blockIdx.z;
  const uint32_t count = a.keys(row), last = j < count ? j : count - 1;
  const uint32_t kv_head = h / (a.layout.q_heads / a.layout.kv_heads);
  const float* q = qkv + static_cast<size_t>(row) * a.layout.row_width() + a.layout.q_at(h);
  const V* k = keys + ((static_cast<size_t>(a.first(row)) + last) * a.layout.kv_heads + kv_head) * a.layout.head_dim;
  float lane = 0.0f;
  for (uint32_t d = lane_of_thread(); d < a.layout.head_dim; d += kLanes) lane = fmaf(widen(k[d]), q[d], lane);
  const float score = halve(lane);
  if (j < count && lane_of_thread() == 0) scores[(static_cast<size_t>(row) * a.layout.q_heads + h) * a.stride + j] = score;
}

// One warp a (head, row), whose second half only takes part in the shuffles. scores become weights; denominators: [rows][q_heads].
static __global__ void softmax_kernel(AttentionStep a, const float* sinks, float* scores, float* denominators) {
  const uint32_t h = blockIdx.x, row = blockIdx.y, count = threadIdx.x < kLanes ? a.keys(row) : 0;
  float* logits = scores + (static_cast<size_t>(row) * a.layout.q_heads + h) * a.stride;
  const float lowest = -__builtin_huge_valf();
  const float sink = sinks != nullptr ? sinks[h] : lowest;
  float top = sink;
  for (uint32_t i = lane_of_thread(); i < count; i += kLanes) {
    const float logit = logits[i] * a.scale;
    top = logit > top ? logit : top;
  }
  for (int stride = kLanes / 2; stride > 0; stride /= 2) {
    const float other = __shfl_xor_sync(kWarp, top, stride, kLanes);
    top = other > top ? other : top;
  }
  float mass = 0.0f;
  for (uint32_t i = lane_of_thread(); i < count; i += kLanes) {
    const float weight = exponential(logits[i] * a.scale - top);
    logits[i] = weight;
    mass = mass + weight;
  }
  const float sum = halve(mass);
  if (threadIdx.x == 0) denominators[static_cast<size_t>(row) * a.layout.q_heads + h] = sum + exponential(sinks != nullptr ? sink - top : lowest);
}

// A thread a value dimension.
template <class V>
__global__ void values_kernel(AttentionStep a, const float* weights, const float* denominators, const V* values, float* out) {
  const uint32_t h = blockIdx.x, row = blockIdx.y, count = a.keys(row);
  const uint32_t kv_head = h / (a.layout.q_heads / a.layout.kv_heads);
  const size_t of_row = static_cast<size_t>(row) * a.layout.q_heads + h;
  for (uint32_t d = threadIdx.x; d < a.layout.v_head_dim; d += blockDim.x) {
    const V* v = values + (static_cast<size_t>(a.first(row)) * a.layout.kv_heads + kv_head) * a.layout.v_head_dim + d;
    const size_t step = static_cast<size_t>(a.layout.kv_heads) * a.layout.v_head_dim;
    float sum = 0.0f;
    for (uint32_t j = 0; j < count; ++j) sum = fmaf(weights[of_row * a.stride + j], widen(v[j * step]), sum);
    out[of_row * a.layout.v_head_dim + d] = sum / denominators[of_row];
  }
}

// qkv: [rows][row_width]; keys, values as the cache holds them; sinks: [q_heads] or null; scores: [rows][q_heads][stride], scratch;
// denominators: [rows][q_heads], scratch; out: [rows][q_heads][v_head_dim].
template <class V>
void attention(const AttentionStep& a, const float* qkv, const V* keys, const V* values, const float* sinks, float* scores,
               float* denominators, float* out, cudaStream_t stream) {
  const unsigned tiles = (a.stride + kScoreThreads / kLanes - 1) / (kScoreThreads / kLanes);
  scores_kernel<V><<<dim3(tiles, a.layout.q_heads, a.rows), kScoreThreads, 0, stream>>>(a, qkv, keys, scores);
  check(cudaGetLastError(), "launching attention scores");
  softmax_kernel<<<dim3(a.layout.q_heads, a.rows), 32, 0, stream>>>(a, sinks, scores, denominators);
  check(cudaGetLastError(), "launching the softmax");
  values_kernel<V><<<dim3(a.layout.q_heads, a.rows), 128, 0, stream>>>(a, scores, denominators, values, out);
  check(cudaGetLastError(), "launching attention values");
}

}  // namespace kilotoken::fp8
