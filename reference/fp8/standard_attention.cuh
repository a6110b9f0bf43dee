// Softmax attention of one row over its cached keys, as an engine without fusion would have it: the keys of a key/value head are divided among
// blocks, each making the partial sums of all query heads that share it; a second launch puts the parts together.
//   l_j = scale * q . k_j;  w_j = exp(l_j - m);  out = sum_j w_j v_j / (exp(sink - m) + sum_j w_j)
// How the keys are divided depends on their number and on nothing else, so the order of the sums does too. The position is read from the
// device. Source: Dao et al., "Flash-Decoding for long-context inference", 2023; the sink as in attention.cuh.
#pragma once

#include "attention.cuh"

namespace kilotoken::fp8 {

inline constexpr uint32_t kSplitKeys = 16;  // the least a block takes
inline constexpr uint32_t kTileKeys = 16;
inline constexpr uint32_t kStandardHeadDim = 192, kStandardValueDim = 128;
inline constexpr uint32_t kPaddedDim = kStandardHeadDim + 4;  // rows of 16 bytes on different banks
inline constexpr int kPartialThreads = 256, kMergeThreads = 512;

struct StandardAttention {
  HeadLayout layout;
  uint32_t window;  // 0: no limit
  uint32_t splits;  // blocks a key/value head
  float scale;

  __device__ uint32_t first(uint32_t position) const { return window != 0 && position + 1 > window ? position + 1 - window : 0; }
  // Keys a block takes, of `count`.
  __device__ uint32_t share(uint32_t count) const {
    const uint32_t even = (count + splits - 1) / splits;
    return even < kSplitKeys ? kSplitKeys : (even + kTileKeys - 1) / kTileKeys * kTileKeys;
  }
};

// 16 keys or values of one head, widened. rows: how many there are; the rest becomes zero.
template <uint32_t kDim, uint32_t kStride, class V>
__device__ inline void load_tile(const V* from, size_t step, uint32_t rows, float* tile) {
  constexpr uint32_t kQuads = kDim / 4;
  for (uint32_t i = threadIdx.x; i < kTileKeys * kQuads; i += kPartialThreads) {
    const uint32_t row = i / kQuads, d = i % kQuads * 4;
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (row < rows) {
      const V* at = from + row * step + d;
      if constexpr (sizeof(V) == 2) {
        const uint2 bits = *reinterpret_cast<const uint2*>(at);
        v = make_float4(bits_float(bits.x << 16), bits_float(bits.x & 0xffff0000u), bits_float(bits.y << 16), bits_float(bits.y & 0xffff0000u));
      } else {
        v = *reinterpret_cast<const float4*>(at);
      }
    }
    *reinterpret_cast<float4*>(tile + row * kStride + d) = v;
  }
}

// G query heads share a key/value head. parts: [q_heads][splits][v_head_dim]; tops, masses: [q_heads][splits].
template <class V, uint32_t G>
__global__ void __launch_bounds__(kPartialThreads)
    attention_parts_kernel(StandardAttention a, const uint32_t* position, const float* qkv, const V* keys, const V* values, float* parts, float* tops, float* masses) {
  __shared__ __align__(16) float q[G * kPaddedDim];
  __shared__ __align__(16) float tile[kTileKeys * kPaddedDim];
  __shared__ __align__(16) float tile_values[kTileKeys * kStandardValueDim];
  __shared__ __align__(16) float weights[kTileKeys * G];
  __shared__ float shrink[G];
  const uint32_t split = blockIdx.x, kv = blockIdx.y, at = *position, first = a.first(at), count = at + 1 - first, share = a.share(count);
  const uint32_t begin = split * share, end = begin + share < count ? begin + share : count;
  if (begin >= count) return;
  for (uint32_t i = threadIdx.x; i < G * kStandardHeadDim; i += kPartialThreads) {
    const uint32_t h = i / kStandardHeadDim, d = i % kStandardHeadDim;
    q[h * kPaddedDim + d] = qkv[a.layout.q_at(kv * G + h) + d];
  }
  const uint32_t key = threadIdx.x % kTileKeys, head = threadIdx.x / kTileKeys % G;  // with 8 heads the upper threads do the same again
  float top = -__builtin_huge_valf(), mass = 0.0f;  // of the head, over the keys so far
  const uint32_t d = threadIdx.x % kStandardValueDim, part = threadIdx.x / kStandardValueDim;
  constexpr uint32_t kHeads = G / (kPartialThreads / kStandardValueDim);
  float sums[kHeads];
#pragma unroll
  for (uint32_t h = 0; h < kHeads; ++h) sums[h] = 0.0f;

  for (uint32_t j = begin; j < end; j += kTileKeys) {
    const uint32_t rows = end - j < kTileKeys ? end - j : kTileKeys;
    const size_t key_step = static_cast<size_t>(a.layout.kv_heads) * kStandardHeadDim, value_step = static_cast<size_t>(a.layout.kv_heads) * kStandardValueDim;
    __syncthreads();
    load_tile<kStandardHeadDim, kPaddedDim>(keys + (first + j) * key_step + kv * kStandardHeadDim, key_step, rows, tile);
    load_tile<kStandardValueDim, kStandardValueDim>(values + (first + j) * value_step + kv * kStandardValueDim, value_step, rows, tile_values);
    __syncthreads();
    // A half warp a head, a thread a key.
    const float4* k4 = reinterpret_cast<const float4*>(tile + key * kPaddedDim);
    const float4* q4 = reinterpret_cast<const float4*>(q + head * kPaddedDim);
    float score = 0.0f;
#pragma unroll 8
    for (uint32_t i = 0; i < kStandardHeadDim / 4; ++i) {
      const float4 k = k4[i], x = q4[i];
      score = fmaf(k.w, x.w, fmaf(k.z, x.z, fmaf(k.y, x.y, fmaf(k.x, x.x, score))));
    }
    score = key < rows ? score * a.scale : -__builtin_huge_valf();
    float highest = score;
    for (int stride = kTileKeys / 2; stride > 0; stride /= 2) {
      const float other = __shfl_xor_sync(kWarp, highest, stride, kTileKeys);
      highest = other > highest ? other : highest;
    }
    highest = top > highest ? top : highest;
    const float weight = key < rows ? exponential(score - highest) : 0.0f, kept = exponential(top - highest);
    float sum = weight;
    for (int stride = kTileKeys / 2; stride > 0; stride /= 2) sum = sum + __shfl_xor_sync(kWarp, sum, stride, kTileKeys);
    weights[key * G + head] = weight;
    if (key == 0) shrink[head] = kept;
    mass = fmaf(mass, kept, sum);
    top = highest;
    __syncthreads();
#pragma unroll
    for (uint32_t h = 0; h < kHeads; ++h) sums[h] = sums[h] * shrink[part * kHeads + h];
#pragma unroll 4
    for (uint32_t k = 0; k < rows; ++k) {
      const float v = tile_values[k * kStandardValueDim + d];
#pragma unroll
      for (uint32_t h = 0; h < kHeads; ++h) sums[h] = fmaf(weights[k * G + part * kHeads + h], v, sums[h]);
    }
  }
#pragma unroll
  for (uint32_t h = 0; h < kHeads; ++h)
    parts[(static_cast<size_t>(kv * G + part * kHeads + h) * a.splits + split) * kStandardValueDim + d] = sums[h];
  if (key == 0) {
    tops[(kv * G + head) * a.splits + split] = top;
    masses[(kv * G + head) * a.splits + split] = mass;
  }
}

// A block a query head: every fourth split by one of four groups of threads, then the groups in order.
static __global__ void __launch_bounds__(kMergeThreads)
    attention_merge_kernel(StandardAttention a, const uint32_t* position, const float* parts, const float* tops, const float* masses, const float* sinks, float* out) {
  constexpr uint32_t kGroups = kMergeThreads / kStandardValueDim;
  __shared__ float sums[kGroups][kStandardValueDim], mass_of[kGroups];
  const uint32_t h = blockIdx.x, d = threadIdx.x % kStandardValueDim, group = threadIdx.x / kStandardValueDim;
  const uint32_t at = *position, count = at + 1 - a.first(at), share = a.share(count), used = (count + share - 1) / share;
  const float sink = sinks != nullptr ? sinks[h] : -__builtin_huge_valf();
  __shared__ float highest[kMergeThreads / 32];
  float top = sink;
  for (uint32_t s = threadIdx.x; s < used; s += kMergeThreads) top = tops[h * a.splits + s] > top ? tops[h * a.splits + s] : top;
  for (int stride = 16; stride > 0; stride /= 2) {
    const float other = __shfl_xor_sync(kWarp, top, stride);
    top = other > top ? other : top;
  }
  if (threadIdx.x % 32 == 0) highest[threadIdx.x / 32] = top;
  __syncthreads();
  for (const float other : highest) top = other > top ? other : top;
  float sum = 0.0f, mass = 0.0f;
#pragma unroll 4
  for (uint32_t s = group; s < used; s += kGroups) {
    const float weight = exponential(tops[h * a.splits + s] - top);
    mass = fmaf(masses[h * a.splits + s], weight, mass);
    sum = fmaf(parts[(static_cast<size_t>(h) * a.splits + s) * kStandardValueDim + d], weight, sum);
  }
  sums[group][d] = sum;
  if (d == 0) mass_of[group] = mass;
  __syncthreads();
  if (group != 0) return;
  float denominator = sinks != nullptr ? exponential(sink - top) : 0.0f;
  for (uint32_t g = 0; g < kGroups; ++g) denominator = denominator + mass_of[g];
  for (uint32_t g = 1; g < kGroups; ++g) sum = sum + sums[g][d];
  out[h * kStandardValueDim + d] = sum / denominator;
}

inline bool standard_attention_fits(const HeadLayout& layout) {
  const uint32_t shared = layout.q_heads / layout.kv_heads;
  return layout.head_dim == kStandardHeadDim && layout.v_head_dim == kStandardValueDim && (shared == 16 || shared == 8);
}

// qkv: [row_width]; keys: [positions][kv_heads][192], values: [positions][kv_heads][128]; sinks: [q_heads] or null; out: [q_heads][128].
template <class V>
void standard_attention(const StandardAttention& a, const uint32_t* position, const float* qkv, const V* keys, const V* values, const float* sinks, float* parts,
                        float* tops, float* masses, float* out, cudaStream_t stream) {
  const dim3 grid(a.splits, a.layout.kv_heads);
  if (a.layout.q_heads / a.layout.kv_heads == 16)
    attention_parts_kernel<V, 16><<<grid, kPartialThreads, 0, stream>>>(a, position, qkv, keys, values, parts, tops, masses);
  else attention_parts_kernel<V, 8><<<grid, kPartialThreads, 0, stream>>>(a, position, qkv, keys, values, parts, tops, masses);
  check(cudaGetLastError(), "launching attention");
  attention_merge_kernel<<<a.layout.q_heads, kMergeThreads, 0, stream>>>(a, position, parts, tops, masses, sinks, out);
  check(cudaGetLastError(), "launching attention");
}

}  // namespace kilotoken::fp8
