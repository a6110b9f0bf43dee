// The router: logits -> sigmoid -> the top k of (probability + bias), ties to the lowest id -> weights from the probabilities without the bias.
// One block a row. Router weights arrive as two BF16 parts, so a logit is the sum of two tiles' rows.
// Source: DeepSeek-V3 "noaux_tc" as used by the MiMo-V2 family.
#pragma once

#include "block.cuh"
#include "core/ties.h"

namespace kilotoken::stack {

__device__ __forceinline__ void topk(const TopkArgs& args, Place b) {
  const int row = b.index(), thread = threadIdx.x, lane = thread % 32;
  if (row >= kRows) return;
  uint32_t* mask = args.masks + row * (kMaxExperts / 32);
  if (row >= static_cast<int>(b.shared.rows)) {
    if (thread < kMaxExperts / 32) mask[thread] = 0;
    return;
  }
  float* probability = b.shared.small;
  const float squares = norm_squares(args.norm, row);
  float bias[2];  // of experts `thread` and `thread` + 256
#pragma unroll
  for (int i = 0; i < 2; ++i) bias[i] = thread + i * kMathThreads < args.experts ? __ldg(args.bias + thread + i * kMathThreads) : 0.0f;
  // Four experts a thread: threads below 128 sum the high parts, the others the low ones.
  const int half = thread / 128, quads = (args.experts + 3) / 4;
#pragma unroll 1
  for (int quad = thread % 128; quad < quads; quad += 128) {
    float4 sum[1] = {};
    const int e = quad * 4;
    if (half == 0 || args.low_tiles > 0)
      sum_parts(args.parts, half * args.tiles + e / kTileRows, row * kTileRows + e % kTileRows, 0, sum);
    if (half == 1) reinterpret_cast<float4*>(b.shared.scratch)[quad] = sum[0];
    else reinterpret_cast<float4*>(probability)[quad] = sum[0];
  }
  math_sync();
  // Integers in the order of the scores, a NaN the smallest.
  uint32_t* key = reinterpret_cast<uint32_t*>(b.shared.scratch) + kMaxExperts;
  const float factor = norm_factor(args.norm, squares);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int e = thread + i * kMathThreads;
    if (e >= args.experts) break;
    probability[e] = sigmoid((probability[e] + b.shared.scratch[e]) * factor);
    const float score = probability[e] + bias[i];
    key[e] = score == score ? order_key(score) : 1u;
  }
  math_sync();  // scratch is read, probabilities are there
  if (thread >= 32) return;
  // A lane owns experts lane, lane + 32, ... and knows its best. Of the best of all lanes one redux finds the key and one the lowest id among
  // equals; only its owner looks again.
  uint32_t best = 0, best_id = ~0u;
  const auto look = [&] {
    best = 0, best_id = ~0u;
#pragma unroll 4
    for (int e = lane; e < args.experts; e += 32)
      if (key[e] > best) best = key[e], best_id = static_cast<uint32_t>(e);
  };
  look();
  uint32_t chosen = 0;  // lane i: word i of the mask
  uint32_t mine = 0;    // lane n: the n-th choice
  float sum = 0.0f;
#pragma unroll 1
  for (int n = 0; n < args.per_token; ++n) {
    const uint32_t top = __reduce_max_sync(~0u, best);
    const uint32_t id = __reduce_min_sync(~0u, best == top ? best_id : ~0u);
    if (best_id == id) {
      key[id] = 0;
      look();
    }
    if (lane == static_cast<int>(id / 32)) chosen |= 1u << (id % 32);
    if (lane == n) mine = id;
    sum += probability[id];
  }
  if (lane < kMaxExperts / 32) mask[lane] = chosen;
  if (lane < args.per_token)
    args.weights[row * args.experts + mine] = __fdividef(probability[mine], args.normalise ? sum + 1e-20f : 1.0f) * args.scale;
}

}  // namespace kilotoken::stack
