// The small ops of a step of one row as an engine without fusion would have them: the same functions as quantise_activation.cuh, rmsnorm.cuh,
// rope_cache.cuh and router.cuh, with as many threads as the work has, and the position read from the device, so that a CUDA graph of a step can be
// launched again for the next token. Also what only sharded ranks need: the sum of their parts, and the choice of the token.
#pragma once

#include <stdexcept>

#include "core/philox.h"
#include "core/ties.h"
#include "quantise_activation.cuh"
#include "rope_cache.cuh"
#include "router.cuh"

namespace kilotoken::fp8 {

// ---- quantisation: a warp 128 channels; codes and scales of quantise_activation.h, apart ----

static __global__ void standard_quantise_kernel(const float* x, uint8_t* codes, float* scales) {
  const uint32_t group = blockIdx.x, at = group * 32 + threadIdx.x;
  const float4 v = reinterpret_cast<const float4*>(x)[at];
  const float values[4] = {v.x, v.y, v.z, v.w};
  uint32_t largest = 0;  // magnitudes compare as their bits; a NaN is the largest
  for (const float value : values) {
    const uint32_t magnitude = float_bits(value) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  for (int stride = 16; stride > 0; stride /= 2) {
    const uint32_t other = __shfl_xor_sync(kWarp, largest, stride);
    largest = other > largest ? other : largest;
  }
  const float amax = bits_float(largest);
  const float scale = amax > 0.0f ? amax / kE4m3Max : 1.0f;
  uint32_t packed = 0;
  for (int i = 0; i < 4; ++i) packed |= static_cast<uint32_t>(float_to_e4m3(values[i] / scale)) << (8 * i);
  reinterpret_cast<uint32_t*>(codes)[at] = packed;
  if (threadIdx.x == 0) scales[group] = scale;
}

// x: [count], a multiple of 128 and every row as well; codes: [count]; scales: [count / 128].
inline void standard_quantise(const float* x, size_t count, uint8_t* codes, float* scales, cudaStream_t stream) {
  standard_quantise_kernel<<<static_cast<unsigned>(count / 128), 32, 0, stream>>>(x, codes, scales);
  check(cudaGetLastError(), "launching a quantisation");
}

// ---- RMSNorm: one block; a thread's elements ascending, threads by halving, warps ascending by halving ----

inline constexpr int kNormThreads = 1024;
inline constexpr int kNormHeld = 8;  // elements of a row that a thread keeps

static __global__ void __launch_bounds__(kNormThreads) standard_rmsnorm_kernel(const float* x, const float* weight, uint32_t cols, float epsilon, float* y) {
  __shared__ float parts[kNormThreads / 32];
  __shared__ float inverse;
  float held[kNormHeld], scale[kNormHeld];
#pragma unroll
  for (int k = 0; k < kNormHeld; ++k) {
    const uint32_t i = threadIdx.x + k * kNormThreads;
    held[k] = i < cols ? x[i] : 0.0f;
    scale[k] = i < cols ? weight[i] : 0.0f;
  }
  float squares = 0.0f;
#pragma unroll
  for (int k = 0; k < kNormHeld; ++k) squares = fmaf(held[k], held[k], squares);
  for (int stride = 16; stride > 0; stride /= 2) squares = squares + __shfl_down_sync(kWarp, squares, stride);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = squares;
  __syncthreads();
  if (threadIdx.x < 32) {
    float sum = parts[threadIdx.x];
    for (int stride = 16; stride > 0; stride /= 2) sum = sum + __shfl_down_sync(kWarp, sum, stride);
    if (threadIdx.x == 0) inverse = 1.0f / sqrtf(sum / static_cast<float>(cols) + epsilon);
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kNormHeld; ++k) {
    const uint32_t i = threadIdx.x + k * kNormThreads;
    if (i < cols) y[i] = held[k] * inverse * scale[k];
  }
}

// x, y: [cols], at most 8192.
inline void standard_rmsnorm(const float* x, const float* weight, size_t cols, float epsilon, float* y, cudaStream_t stream) {
  if (cols > kNormThreads * kNormHeld) throw std::logic_error("a row that the standard norm cannot hold");
  standard_rmsnorm_kernel<<<1, kNormThreads, 0, stream>>>(x, weight, static_cast<uint32_t>(cols), epsilon, y);
  check(cudaGetLastError(), "launching a norm");
}

// ---- RoPE and the cache, at a position that the device holds ----

// turns: the tables of all positions, [positions][half].
static __global__ void standard_rope_kernel(HeadLayout layout, RopeTurns turns, const uint32_t* position, float* qkv) {
  const uint32_t h = blockIdx.x;
  float* head = qkv + (h < layout.q_heads ? layout.q_at(h) : layout.k_at(h - layout.q_heads));
  const size_t half = turns.half, at = *position * half;
  for (size_t i = threadIdx.x; i < half; i += blockDim.x) {
    const float a = head[i], b = head[i + half];
    const float c = turns.cosine[at + i], s = turns.sine[at + i];
    head[i] = a * c - b * s;
    head[i + half] = b * c + a * s;
  }
}

inline void standard_rope(const HeadLayout& layout, const RopeTurns& turns, const uint32_t* position, float* qkv, cudaStream_t stream) {
  standard_rope_kernel<<<layout.q_heads + layout.kv_heads, 32, 0, stream>>>(layout, turns, position, qkv);
  check(cudaGetLastError(), "launching RoPE");
}

template <class V>
__global__ void standard_cache_kernel(HeadLayout layout, const float* qkv, const uint32_t* position, float value_scale, V* keys, V* values) {
  const uint32_t h = blockIdx.x;
  const size_t place = static_cast<size_t>(*position) * layout.kv_heads + h;
  for (uint32_t d = threadIdx.x; d < layout.head_dim; d += blockDim.x) put(keys + place * layout.head_dim + d, qkv[layout.k_at(h) + d]);
  for (uint32_t d = threadIdx.x; d < layout.v_head_dim; d += blockDim.x)
    put(values + place * layout.v_head_dim + d, qkv[layout.v_at(h) + d] * value_scale);
}

template <class V>
void standard_cache(const HeadLayout& layout, const float* qkv, const uint32_t* position, float value_scale, V* keys, V* values, cudaStream_t stream) {
  standard_cache_kernel<V><<<layout.kv_heads, 192, 0, stream>>>(layout, qkv, position, value_scale, keys, values);
  check(cudaGetLastError(), "launching the cache write");
}

// ---- what ranks share ----

// parts: [ranks][count]; y[i] = parts[0][i] + parts[1][i] + ..., from the left.
static __global__ void sum_ranks_kernel(const float* parts, uint32_t ranks, size_t count, float* y) {
  const size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float sum = parts[i];
  for (uint32_t r = 1; r < ranks; ++r) sum = sum + parts[r * count + i];
  y[i] = sum;
}

inline void sum_ranks(const float* parts, size_t ranks, size_t count, float* y, cudaStream_t stream) {
  sum_ranks_kernel<<<static_cast<unsigned>((count + 255) / 256), 256, 0, stream>>>(parts, static_cast<uint32_t>(ranks), count, y);
  check(cudaGetLastError(), "launching the sum over ranks");
}

// The greedy token of a row of logits becomes the next input, and the position moves on: the best of each 1024 logits, then the best of those.
struct Best {
  float value;
  int32_t id;  // below 0: none yet

  __device__ void meet(float other, int other_id) {
    if (other_id >= 0 && (id < 0 || ranks_before(other, other_id, value, id))) value = other, id = other_id;
  }
};

// Of all 1024 threads of a block; valid in thread 0.
__device__ inline Best best_of_block(Best best) {
  __shared__ Best bests[32];
  const auto fold = [&] {
    for (int stride = 16; stride > 0; stride /= 2) {
      const float other = __shfl_xor_sync(kWarp, best.value, stride);
      const int other_id = __shfl_xor_sync(kWarp, best.id, stride);
      best.meet(other, other_id);
    }
  };
  fold();
  if (threadIdx.x % 32 == 0) bests[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x < 32) {
    best = bests[threadIdx.x];
    fold();
  }
  return best;
}

static __global__ void __launch_bounds__(1024) best_logits_kernel(const float* logits, uint32_t vocab, Best* bests) {
  const uint32_t i = blockIdx.x * 1024 + threadIdx.x;
  const Best best = best_of_block(i < vocab ? Best{logits[i], static_cast<int32_t>(i)} : Best{0.0f, -1});
  if (threadIdx.x == 0) bests[blockIdx.x] = best;
}

static __global__ void __launch_bounds__(1024) choose_token_kernel(const Best* bests, uint32_t count, int32_t* id, uint32_t* position) {
  Best best{0.0f, -1};
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) best.meet(bests[i].value, bests[i].id);
  best = best_of_block(best);
  if (threadIdx.x == 0) *id = best.id, *position = *position + 1;
}

inline size_t token_blocks(size_t vocab) { return (vocab + 1023) / 1024; }

// bests: [token_blocks(vocab)], scratch.
inline void choose_token(const float* logits, size_t vocab, Best* bests, int32_t* id, uint32_t* position, cudaStream_t stream) {
  best_logits_kernel<<<static_cast<unsigned>(token_blocks(vocab)), 1024, 0, stream>>>(logits, static_cast<uint32_t>(vocab), bests);
  check(cudaGetLastError(), "launching the choice of the token");
  choose_token_kernel<<<1, 1024, 0, stream>>>(bests, static_cast<uint32_t>(token_blocks(vocab)), id, position);
  check(cudaGetLastError(), "launching the choice of the token");
}

// ---- router: the experts and weights of router.cuh, a warp that keeps all candidates in registers ----

inline constexpr uint32_t kCandidates = 16;  // a lane

static __global__ void standard_choose_experts_kernel(RouterRule rule, const float* p, const float* bias, int32_t* experts, float* weights) {
  const uint32_t lane = threadIdx.x;
  Best candidates[kCandidates];
#pragma unroll
  for (uint32_t i = 0; i < kCandidates; ++i) {
    const uint32_t e = lane + 32 * i;
    candidates[i] = e < rule.experts ? Best{p[e] + bias[e], static_cast<int32_t>(e)} : Best{0.0f, -1};
  }
  int mine = -1;  // lane s keeps the expert of slot s
  for (uint32_t slot = 0; slot < rule.chosen; ++slot) {
    Best best{0.0f, -1};
#pragma unroll
    for (uint32_t i = 0; i < kCandidates; ++i) best.meet(candidates[i].value, candidates[i].id);
    for (int stride = 16; stride > 0; stride /= 2) {
      const float other = __shfl_xor_sync(kWarp, best.value, stride);
      const int other_id = __shfl_xor_sync(kWarp, best.id, stride);
      best.meet(other, other_id);
    }
#pragma unroll
    for (uint32_t i = 0; i < kCandidates; ++i)
      if (candidates[i].id == best.id) candidates[i].id = -1;
    if (lane == slot) mine = best.id;
  }
  uint32_t place = 0;  // in ascending order of expert
  for (uint32_t s = 0; s < rule.chosen; ++s) {
    const int other = __shfl_sync(kWarp, mine, static_cast<int>(s));
    place += other < mine;
  }
  const float own = lane < rule.chosen ? p[mine] : 0.0f;
  float total = 0.0f;
  for (uint32_t at = 0; at < rule.chosen; ++at) {
    const unsigned holder = __ballot_sync(kWarp, lane < rule.chosen && place == at);
    total = total + __shfl_sync(kWarp, own, __ffs(static_cast<int>(holder)) - 1);
  }
  const float divisor = rule.normalise ? total + 1e-20f : 1.0f;
  if (lane < rule.chosen) experts[place] = mine, weights[place] = own / divisor * rule.scale;
}

// p, bias: [experts], at most 512; experts, weights: [chosen], at most 32, in ascending order of expert.
inline void standard_choose_experts(const RouterRule& rule, const float* p, const float* bias, int32_t* experts, float* weights, cudaStream_t stream) {
  if (rule.experts > 32 * kCandidates || rule.chosen > 32) throw std::logic_error("more experts than the standard router holds");
  standard_choose_experts_kernel<<<1, 32, 0, stream>>>(rule, p, bias, experts, weights);
  check(cudaGetLastError(), "launching the router");
}

// ---- a context that nobody computed ----

inline constexpr uint32_t kContextDomain = 0x6b767874u;  // in the place of a Stream number; no stream has it

// Keys or values of positions [0, positions): uniform with unit mean square, a function of (seed, layer, which, position, head of the whole model,
// dimension), so that every way to shard the heads sees the same context. A thread four dimensions.
template <class V>
__global__ void fill_context_kernel(uint64_t seed, uint32_t tensor, uint32_t first_head, uint32_t heads, uint32_t dim, uint32_t positions, float scale, V* out) {
  const uint64_t quads = static_cast<uint64_t>(positions) * heads * (dim / 4);
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < quads; i += static_cast<uint64_t>(gridDim.x) * blockDim.x) {
    const uint32_t quad = static_cast<uint32_t>(i % (dim / 4)), head = static_cast<uint32_t>(i / (dim / 4) % heads);
    const uint32_t position = static_cast<uint32_t>(i / (dim / 4) / heads);
    const PhiloxWords w = philox4x32(PhiloxWords{{position, kContextDomain, tensor, (first_head + head) << 16 | quad}}, static_cast<uint32_t>(seed),
                                     static_cast<uint32_t>(seed >> 32));
    for (int k = 0; k < 4; ++k) {
      const float unit = static_cast<float>(w.x[k] >> 8) * 0x1p-23f - 1.0f;
      put(out + 4 * i + k, unit * (scale * 1.7320508f));
    }
  }
}

template <class V>
void fill_context(uint64_t seed, uint32_t tensor, size_t first_head, size_t heads, size_t dim, size_t positions, float scale, V* out, cudaStream_t stream) {
  if (positions == 0) return;
  fill_context_kernel<V><<<1056, 256, 0, stream>>>(seed, tensor, static_cast<uint32_t>(first_head), static_cast<uint32_t>(heads), static_cast<uint32_t>(dim),
                                                   static_cast<uint32_t>(positions), scale, out);
  check(cudaGetLastError(), "filling the context");
}

}  // namespace kilotoken::fp8
