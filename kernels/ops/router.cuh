// The router: logits -> sigmoid -> the top k of (probability + bias), ties to the lowest id -> weights from the probabilities without the bias.
// One block a row. Router weights arrive as two BF16 parts, so a logit is the sum of two tiles' rows.
// Source: DeepSeek-V3 "noaux_tc" as used by the MiMo-V2 family.
#pragma once

#include "block.cuh"
#include "core/ties.h"

namespace kilotoken::stack {

__device__ inline void topk(const TopkArgs& args, Block& b) {
  const int row = b.index, thread = threadIdx.x, lane = thread % 32;
  if (row >= kRows) return;
  uint32_t* mask = args.masks + row * (kMaxExperts / 32);
  if (row >= static_cast<int>(b.shared.rows)) {
    if (thread < kMaxExperts / 32) mask[thread] = 0;
    return;
  }
  float* probability = b.shared.small;
  const float factor = norm_factor(args.norm, row);
  // Four experts a thread: threads below 128 sum the high parts, the others the low ones.
  const int half = thread / 128, quads = (args.experts + 3) / 4;
  for (int quad = thread % 128; quad < quads; quad += 128) {
    float4 sum[1] = {};
    const int e = quad * 4;
    if (half == 0 || args.low_tiles > 0)
      sum_parts(args.parts, half * args.tiles + e / kTileRows, row * kTileRows + e % kTileRows, 0, sum);
    if (half == 1) reinterpret_cast<float4*>(b.shared.scratch)[quad] = sum[0];
    else reinterpret_cast<float4*>(probability)[quad] = sum[0];
  }
  math_sync();
  for (int e = thread; e < args.experts; e += kMathThreads)
    probability[e] = 1.0f / (1.0f + expf(-((probability[e] + b.shared.scratch[e]) * factor)));
  math_sync();
  if (thread >= 32) return;
  constexpr int kOfLane = kMaxExperts / 32;
  float score[kOfLane];
#pragma unroll
  for (int i = 0; i < kOfLane; ++i) {
    const int e = i * 32 + lane;
    score[i] = e < args.experts ? probability[e] + __ldg(args.bias + e) : -INFINITY;
  }
  uint32_t chosen = 0;  // lane i: word i of the mask
  int ids[kMaxExpertsPerToken];
  float sum = 0.0f;
#pragma unroll
  for (int n = 0; n < kMaxExpertsPerToken; ++n) {
    if (n >= args.per_token) break;
    float best = score[0];
    int id = lane;
#pragma unroll
    for (int i = 1; i < kOfLane; ++i)
      if (ranks_before(score[i], i * 32 + lane, best, id)) best = score[i], id = i * 32 + lane;
#pragma unroll
    for (int stride = 16; stride > 0; stride /= 2) {
      const float other = __shfl_xor_sync(~0u, best, stride);
      const int other_id = __shfl_xor_sync(~0u, id, stride);
      if (ranks_before(other, other_id, best, id)) best = other, id = other_id;
    }
#pragma unroll
    for (int i = 0; i < kOfLane; ++i)
      if (id == i * 32 + lane) score[i] = -INFINITY;
    if (lane == id / 32) chosen |= 1u << (id % 32);
    ids[n] = id;
    sum += probability[id];
  }
  if (lane < kMaxExperts / 32) mask[lane] = chosen;
#pragma unroll
  for (int n = 0; n < kMaxExpertsPerToken; ++n)
    if (n < args.per_token && lane == n)
      args.weights[row * args.experts + ids[n]] = probability[ids[n]] / (args.normalise ? sum + 1e-20f : 1.0f) * args.scale;
}

}  // namespace kilotoken::stack
