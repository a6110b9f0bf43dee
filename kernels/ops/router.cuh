// The router: logits -> sigmoid -> the top k of (probability + bias), ties to the lowest id -> weights from the probabilities without the bias.
// One block a row. Router weights arrive as two BF16 parts, so a logit is the sum of two tiles' rows.
// Source: DeepSeek-V3 "noaux_tc" as used by the MiMo-V2 family.
#pragma once

#include "block.cuh"
#include "core/ties.h"

namespace kilotoken::stack {

// Evenly distributed over [0, 1): a number of (salt, bucket of positions, expert), by two rounds of a multiplicative hash.
__device__ __forceinline__ float shared_number(uint32_t salt, uint32_t bucket, uint32_t expert) {
  uint32_t x = (salt * 0x9e3779b9u ^ bucket) * 0x85ebca6bu ^ expert;
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return static_cast<float>((x ^ x >> 16) >> 8) * 0x1p-24f;
}

// The next of a warp's best: of every lane's `key` (larger is better, 0: none left) and `id` the largest, the lowest id among equals. All lanes get it.
struct Best {
  uint32_t key, id;
};
__device__ __forceinline__ Best warp_best(uint32_t key, uint32_t id) {
  const uint32_t top = __reduce_max_sync(~0u, key);
  return {top, defect(Defect::kTies) ? __reduce_max_sync(~0u, key == top ? id : 0u) : __reduce_min_sync(~0u, key == top ? id : ~0u)};
}

__device__ __forceinline__ void topk(const TopkArgs& args, Place b) {
  constexpr int kWarps = kMathThreads / 32, kOfWarp = kMaxExperts / kWarps;
  static_assert(kOfWarp == 64 && kWarps * kMaxExpertsPerToken == 64, "two a lane");
  const int row = b.index(), thread = b.thread, lane = thread % 32, warp = thread / 32;
  Choice& choice = *args.choice;
  const uint32_t mark = mark_of(args.uses, b) << 31;
  if (row >= static_cast<int>(b.shared.rows)) {
    if (thread < kMaskWords) choice.masks[row][thread] = mark;
    if (thread < kMaxExpertsPerToken) choice.experts[row][thread] = make_uint2(mark, mark);  // nobody asks, but a use writes all
    return;
  }
  const Squares squares = norm_squares(args.norm, row);
  // A lane owns experts 64 warp + lane and + 32.
  float bias[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int id = warp * kOfWarp + j * 32 + lane;
    bias[j] = id < args.experts ? __ldg(args.bias + id) : 0.0f;
  }
  // Four logits a thread: threads below 128 sum the high parts, the others the low ones.
  float* logit = b.shared.small;
  const int half = thread / 128, quad = thread % 128, e = quad * 4;
  float4 sum{};
  if (e < args.experts && (half == 0 || args.low_tiles > 0))
    sum = sum_parts<4, 4, float4>(args.parts, b, half * args.tiles + e / kTileRows, row * kTileRows + e % kTileRows);
  reinterpret_cast<float4*>(half == 0 ? logit : b.shared.scratch)[quad] = sum;
  const float factor = norm_factor(args.norm, squares);
  math_sync();
  // Integers in the order of the scores, a NaN the smallest.
  float probability[2];
  uint32_t key[2], id[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    id[j] = static_cast<uint32_t>(warp * kOfWarp + j * 32 + lane);
    probability[j] = sigmoid((logit[id[j]] + b.shared.scratch[id[j]]) * factor);
    float score = probability[j] + bias[j];
    if (args.shared != 0.0f)
      score = probability[j] * (1.0f - args.shared) + args.shared * shared_number(args.salt, (b.shared.start + row) / 32, id[j]) + bias[j];
    key[j] = static_cast<int>(id[j]) >= args.experts ? 0u : score == score ? order_key(score) : 1u;
  }
  // The warp's best in order, then of all warps' lists the best: what is among the best of all is among the best of its warp.
  struct Candidate {
    uint32_t key, id;
    float probability;
  };
  Candidate* candidates = reinterpret_cast<Candidate*>(b.shared.scratch + kMaxExperts);  // [kWarps][kMaxExpertsPerToken]
  const auto take = [&](auto found) {
    if (key[1] > key[0] || (key[1] == key[0] && id[1] < id[0])) {
      const uint32_t k = key[0], i = id[0];
      const float p = probability[0];
      key[0] = key[1], id[0] = id[1], probability[0] = probability[1];
      key[1] = k, id[1] = i, probability[1] = p;
    }
#pragma unroll
    for (int n = 0; n < kMaxExpertsPerToken; ++n) {
      const Best best = warp_best(key[0], id[0]);
      if (id[0] == best.id) {
        found(n, Candidate{key[0], id[0], probability[0]});
        key[0] = key[1], id[0] = id[1], probability[0] = probability[1];
        key[1] = 0, id[1] = ~0u;
      }
    }
  };
  take([&](int n, const Candidate& c) { candidates[warp * kMaxExpertsPerToken + n] = c; });
  math_sync();
  if (warp > 0) return;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const Candidate c = candidates[j * 32 + lane];
    key[j] = c.key, id[j] = c.id, probability[j] = c.probability;
  }
  __syncwarp();
  take([&](int n, const Candidate& c) { candidates[n] = c; });
  __syncwarp();
  const bool counts = lane < args.per_token;
  const Candidate mine = candidates[lane % kMaxExpertsPerToken];
  uint32_t chosen = 0;
  float total = 0.0f;
#pragma unroll
  for (int n = 0; n < kMaxExpertsPerToken; ++n) {
    if (n >= args.per_token) break;
    const uint32_t one = __shfl_sync(~0u, mine.id, n);
    total += __shfl_sync(~0u, mine.probability, n);
    if (lane == static_cast<int>(one / 16)) chosen |= 1u << (one % 16);
  }
  choice.masks[row][lane] = chosen | mark;
  const float weight = __fdividef(mine.probability, args.normalise && !defect(Defect::kWeights) ? total + 1e-20f : 1.0f) * args.scale;
  if (lane < kMaxExpertsPerToken) choice.experts[row][lane] = make_uint2((counts ? mine.id : 0u) | mark, __float_as_uint(fabsf(weight)) | mark);
}

}  // namespace kilotoken::stack
