// RoPE on the queries and keys of a step, and keys and values into the cache: keys after RoPE, values after the value scale, BF16 or
// binary32. Cosines and sines come from the host, computed in double (reference/cpu/rope.h).
#pragma once

#include "core/bf16.h"
#include "device.h"

namespace kilotoken::fp8 {

// Where the heads of a row [groups of Q heads | K heads | V heads] lie.
struct HeadLayout {
  uint32_t groups, q_heads, kv_heads;  // heads in all groups
  uint32_t head_dim, v_head_dim;

  __host__ __device__ uint32_t q_of_group() const { return q_heads / groups; }
  __host__ __device__ uint32_t kv_of_group() const { return kv_heads / groups; }
  __host__ __device__ uint32_t group_width() const { return q_of_group() * head_dim + kv_of_group() * (head_dim + v_head_dim); }
  __host__ __device__ uint32_t row_width() const { return groups * group_width(); }
  __host__ __device__ uint32_t q_at(uint32_t h) const { return h / q_of_group() * group_width() + h % q_of_group() * head_dim; }
  __host__ __device__ uint32_t k_at(uint32_t h) const {
    return h / kv_of_group() * group_width() + (q_of_group() + h % kv_of_group()) * head_dim;
  }
  __host__ __device__ uint32_t v_at(uint32_t h) const {
    return h / kv_of_group() * group_width() + (q_of_group() + kv_of_group()) * head_dim + h % kv_of_group() * v_head_dim;
  }
};

// The turns of a step's rows. cosine, sine: [rows][half], half the rotary width.
struct RopeTurns {
  const float* cosine;
  const float* sine;
  size_t half;
};

// One block a (head, row): query heads, then key heads.
static __global__ void rope_kernel(HeadLayout layout, RopeTurns turns, float* qkv) {
  const uint32_t h = blockIdx.x, row = blockIdx.y;
  float* head = qkv + static_cast<size_t>(row) * layout.row_width() + (h < layout.q_heads ? layout.q_at(h) : layout.k_at(h - layout.q_heads));
  const size_t half = turns.half;
  for (size_t i = threadIdx.x; i < half; i += blockDim.x) {
    const float a = head[i], b = head[i + half];
    const float c = turns.cosine[row * half + i], s = turns.sine[row * half + i];
    head[i] = a * c - b * s;
    head[i + half] = b * c + a * s;
  }
}

// qkv: [rows][layout.row_width()], turned in place.
inline void rope(const HeadLayout& layout, const RopeTurns& turns, size_t rows, float* qkv, cudaStream_t stream) {
  if (turns.half == 0) return;
  const dim3 grid(layout.q_heads + layout.kv_heads, static_cast<unsigned>(rows));
  rope_kernel<<<grid, 32, 0, stream>>>(layout, turns, qkv);
  check(cudaGetLastError(), "launching RoPE");
}

__device__ inline void put(uint16_t* to, float x) { *to = float_to_bf16(x); }
__device__ inline void put(float* to, float x) { *to = x; }

// One block a (key/value head, row).
template <class V>
__global__ void cache_kernel(HeadLayout layout, const float* qkv, size_t first_position, float value_scale, V* keys, V* values) {
  const uint32_t h = blockIdx.x, row = blockIdx.y;
  const float* from = qkv + static_cast<size_t>(row) * layout.row_width();
  const size_t place = (first_position + row) * layout.kv_heads + h;
  for (uint32_t d = threadIdx.x; d < layout.head_dim; d += blockDim.x) put(keys + place * layout.head_dim + d, from[layout.k_at(h) + d]);
  for (uint32_t d = threadIdx.x; d < layout.v_head_dim; d += blockDim.x)
    put(values + place * layout.v_head_dim + d, from[layout.v_at(h) + d] * value_scale);
}

// keys: [positions][kv_heads][head_dim], values: [positions][kv_heads][v_head_dim]; rows land at first_position, ...
template <class V>
void cache_keys_values(const HeadLayout& layout, const float* qkv, size_t rows, size_t first_position, float value_scale, V* keys, V* values,
                       cudaStream_t stream) {
  const dim3 grid(layout.kv_heads, static_cast<unsigned>(rows));
  cache_kernel<V><<<grid, 64, 0, stream>>>(layout, qkv, first_position, value_scale, keys, values);
  check(cudaGetLastError(), "launching the cache write");
}

}  // namespace kilotoken::fp8
