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

// Whether a warp's best is this lane's: of every lane's `key` (larger is better, 0: none left) and `id` the largest, the lowest id among equals.
__device__ __forceinline__ bool is_best(uint32_t key, uint32_t id) {
  const bool top = key == __reduce_max_sync(~0u, key);
  const uint32_t holders = __ballot_sync(~0u, top);
  if ((holders & (holders - 1)) == 0) return top;
  return id == (defect(Defect::kTies) ? __reduce_max_sync(~0u, top ? id : 0u) : __reduce_min_sync(~0u, top ? id : ~0u));
}

// The same order as one number: of key, then of the id.
__device__ __forceinline__ uint64_t place_in_order(uint32_t key, uint32_t id) {
  return static_cast<uint64_t>(key) << 32 | (defect(Defect::kTies) ? id : ~id);
}

__device__ __forceinline__ void topk(const TopkArgs& args, Place b, int row) {
  constexpr int kWarps = kMathThreads / 32, kOfWarp = kMaxExperts / kWarps;
  static_assert(kOfWarp == 64 && kWarps * kMaxExpertsPerToken == 64, "two a lane");
  const int thread = b.thread, lane = thread % 32, warp = thread / 32;
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
  // The warp's best in order; then each of all warps' finds out how many of them are ahead of it: what is among the best of all is among the best of its warp.
  constexpr int kCandidates = kWarps * kMaxExpertsPerToken, kHelpers = kMathThreads / kCandidates, kOthers = kCandidates / kHelpers;
  struct Candidates {
    uint64_t order[kCandidates];
    uint32_t id[kCandidates];
    float probability[kCandidates];
    uint32_t best_id[kMaxExpertsPerToken];
    float best_probability[kMaxExpertsPerToken];
  };
  static_assert(kMaxExperts * sizeof(float) + sizeof(Candidates) <= sizeof(b.shared.scratch));
  Candidates& c = *reinterpret_cast<Candidates*>(b.shared.scratch + kMaxExperts);
  if (key[1] > key[0] || (key[1] == key[0] && id[1] < id[0])) {
    const uint32_t k = key[0], i = id[0];
    const float p = probability[0];
    key[0] = key[1], id[0] = id[1], probability[0] = probability[1];
    key[1] = k, id[1] = i, probability[1] = p;
  }
#pragma unroll 1
  for (int n = 0; n < kMaxExpertsPerToken; ++n) {
    if (is_best(key[0], id[0])) {
      const int place = warp * kMaxExpertsPerToken + n;
      c.order[place] = place_in_order(key[0], id[0]), c.id[place] = id[0], c.probability[place] = probability[0];
      key[0] = key[1], id[0] = id[1], probability[0] = probability[1];
      key[1] = 0, id[1] = ~0u;
    }
  }
  math_sync();
  {
    const int place = thread / kHelpers, from = thread % kHelpers * kOthers;
    const uint64_t mine = c.order[place];
    int ahead = 0;
#pragma unroll
    for (int i = 0; i < kOthers; ++i) ahead += c.order[from + i] > mine;
#pragma unroll
    for (int step = 1; step < kHelpers; step *= 2) ahead += __shfl_xor_sync(~0u, ahead, step);
    if (from == 0 && ahead < kMaxExpertsPerToken) c.best_id[ahead] = c.id[place], c.best_probability[ahead] = c.probability[place];
  }
  math_sync();
  if (warp > 0) return;
  const bool counts = lane < args.per_token;
  const uint32_t id_of_lane = c.best_id[lane % kMaxExpertsPerToken];
  const float of_lane = c.best_probability[lane % kMaxExpertsPerToken];
  uint32_t chosen = 0;
  float total = 0.0f;
#pragma unroll
  for (int n = 0; n < kMaxExpertsPerToken; ++n) {
    if (n >= args.per_token) break;
    const uint32_t one = c.best_id[n];
    total += c.best_probability[n];
    if (lane == static_cast<int>(one / 16)) chosen |= 1u << (one % 16);
  }
  choice.masks[row][lane] = chosen | mark;
  const float weight = __fdividef(of_lane, args.normalise && !defect(Defect::kWeights) ? total + 1e-20f : 1.0f) * args.scale;
  if (lane < kMaxExpertsPerToken) choice.experts[row][lane] = make_uint2((counts ? id_of_lane : 0u) | mark, __float_as_uint(fabsf(weight)) | mark);
}

}  // namespace kilotoken::stack
