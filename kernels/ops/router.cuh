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

__device__ __forceinline__ float turned(float x, uint32_t mark) { return __uint_as_float(__float_as_uint(x) ^ mark); }

// Four values at `offset` floats of each part of `tile`, summed in the order of k. All lanes of a warp; the lanes of a half have one tile. Up to sixteen parts are on their way at
// once: a part that is not there is another one of the same tile that is asked for again and not added. (With a predicate for each, of which there are seven, loads wait for the checks of those before.)
__device__ __forceinline__ float4 sum_router_parts(const Parts& parts, const Place& b, int tile, int offset) {
  constexpr int kSlices = 4, kPieces = 4;
  const Tiling& t = parts.tiling;
  const uint32_t mark = mark_of(parts.uses, b);
  // Of an address that the compiler cannot take apart, a part is one instruction away.
  const uint64_t at = reinterpret_cast<uint64_t>(parts.data + offset);
  const uint64_t data = static_cast<uint64_t>(passing(static_cast<uint32_t>(at >> 32))) << 32 | passing(static_cast<uint32_t>(at));
  float4 sum{};
#pragma unroll 1
  for (int slice = 0; slice < t.slices; slice += kSlices) {
    // A lane finds the pieces of one slice for all: places first .. last, and of a slice that is not there last + 1 .. last.
    int first[kSlices], last[kSlices];
    {
      const int own = slice + static_cast<int>(b.thread % kSlices), unit = min(own, t.slices - 1) * t.tiles + tile, page = unit * t.pages;
      const int end = unit + owner_of(t, page + t.pages - 1), begin = own < t.slices ? unit + owner_of(t, page) : end + 1;
#pragma unroll
      for (int i = 0; i < kSlices; ++i) {
        const int holder = static_cast<int>(b.thread & 16) | i;
        first[i] = __shfl_sync(~0u, begin, holder);
        last[i] = __shfl_sync(~0u, end, holder);
      }
    }
#pragma unroll 1
    for (int piece = 0; piece < t.most; piece += kPieces) {
      float4 part[kSlices][kPieces];
      ptx::Watch watch;
#pragma unroll 1
      for (;;) {
        uint32_t other = 0;
#pragma unroll
        for (int i = 0; i < kSlices; ++i) {
#pragma unroll
          for (int n = 0; n < kPieces; ++n)
            part[i][n] = ptx::load_relaxed(reinterpret_cast<const float4*>(data + static_cast<uint64_t>(static_cast<uint32_t>(min(first[i] + n, last[i]))) * (kPartFloats * sizeof(float))));
        }
#pragma unroll
        for (int i = 0; i < kSlices; ++i) {
#pragma unroll
          for (int n = 0; n < kPieces; ++n) {
            float4& x = part[i][n];  // without its mark, if it is this use's
            x = make_float4(turned(x.x, mark), turned(x.y, mark), turned(x.z, mark), turned(x.w, mark));
            other |= __float_as_uint(x.x) | __float_as_uint(x.y);
            other |= __float_as_uint(x.z) | __float_as_uint(x.w);
          }
        }
        if ((passing(other) & 1u) == 0 || defect(Defect::kStalePart)) break;
        watch.look(b.fault(), ptx::Wait::kParts, b.instruction());
      }
#pragma unroll
      for (int i = 0; i < kSlices; ++i) {
#pragma unroll
        for (int n = 0; n < kPieces; ++n) {
          if (first[i] + n <= last[i]) sum = sum + part[i][n];
        }
        first[i] += kPieces;
      }
    }
  }
  return sum;
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
  const int thread = b.thread, lane = b.thread % 32, warp = b.thread / 32;
  Choice& choice = *args.choice;
  const uint32_t mark = mark_of(args.uses, b) << 31;
  if (row >= static_cast<int>(b.shared.rows)) {
    if (thread < kMaskWords) choice.masks[row][thread] = mark;
    if (thread < kMaxExpertsPerToken) choice.experts[row][thread] = make_uint2(mark, mark);  // nobody asks, but a use writes all
    return;
  }
  const Squares squares = norm_squares(args.norm, row);
  // A warp owns the experts of a tile, 64 warp .. : lanes 0 .. 15 sum four high parts of logits each, 16 .. 31 the low ones, then each has the first or the last two of the four.
  const int half = lane / 16, quad = lane % 16, first = warp * kOfWarp + quad * 4 + half * 2;
  float bias[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) bias[j] = first + j < args.experts ? __ldg(args.bias + first + j) : 0.0f;
  float4 sum{};
  if (warp < args.tiles) sum = sum_router_parts(args.parts, b, warp + (half == 0 || args.low_tiles == 0 ? 0 : args.tiles), row * kTileRows + quad * 4);
  if (half > 0 && args.low_tiles == 0) sum = float4{};
  float logit[2];
  logit[0] = (half == 0 ? sum.x : sum.z) + __shfl_xor_sync(~0u, half == 0 ? sum.z : sum.x, 16);
  logit[1] = (half == 0 ? sum.y : sum.w) + __shfl_xor_sync(~0u, half == 0 ? sum.w : sum.y, 16);
  const float factor = norm_factor(args.norm, squares);
  // Integers in the order of the scores, a NaN the smallest.
  float probability[2];
  uint32_t key[2], id[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    id[j] = static_cast<uint32_t>(first + j);
    probability[j] = sigmoid(logit[j] * factor);
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
