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

// Four values at `offset` floats of each part of `tile`, summed in the order of k. All lanes of a warp; those of a half have one tile. Up to sixteen parts are on their way at once: in the
// place of one that is not there another one of the tile is asked for and not added. (With a predicate for each, of which there are seven, loads wait for the checks of those before.)
// `counts` false: nothing is added. `meanwhile`: what all lanes do while the first parts are on their way.
template <class Meanwhile>
__device__ __forceinline__ float4 sum_router_parts(const Parts& parts, const Place& b, int tile, int offset, bool counts, Meanwhile meanwhile) {
  constexpr int kSlices = 4, kPieces = 4;
  const Tiling& t = parts.tiling;
  const uint32_t mark = mark_of(parts.uses, b);
  // Of an address that the compiler cannot take apart, a part is one instruction away.
  const uint64_t at = reinterpret_cast<uint64_t>(parts.data + offset);
  const uint64_t data = static_cast<uint64_t>(passing(static_cast<uint32_t>(at >> 32))) << 32 | passing(static_cast<uint32_t>(at));
  float4 sum{};
  bool begins = true;
  int slice = 0;
#pragma unroll 1
  do {
    // A lane finds the pieces of one slice for all: places first .. last, and of a slice that is not there last + 1 .. last.
    int first[kSlices], last[kSlices];
    {
      const int own = slice + static_cast<int>(b.thread % kSlices), unit = min(own, t.slices - 1) * t.tiles + tile, page = unit * t.pages;
      const int end = unit + owner_of(t, page + t.pages - 1), begin = counts && own < t.slices ? unit + owner_of(t, page) : end + 1;
#pragma unroll
      for (int i = 0; i < kSlices; ++i) {
        const int holder = static_cast<int>(b.thread & 16) | i;
        first[i] = __shfl_sync(~0u, begin, holder);
        last[i] = __shfl_sync(~0u, end, holder);
      }
    }
    int piece = 0;
#pragma unroll 1
    do {
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
        if (begins) meanwhile(), begins = false;
#pragma unroll
        for (int i = 0; i < kSlices; ++i) {
#pragma unroll
          for (int n = 0; n < kPieces; ++n) {
            part[i][n] = turned(part[i][n], mark);
            other |= any_bit(part[i][n]);
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
    } while ((piece += kPieces) < t.most);
  } while ((slice += kSlices) < t.slices);
  return sum;
}

// The order of experts as one number: of key, then of the id.
__device__ __forceinline__ uint64_t place_in_order(uint32_t key, uint32_t id) {
  return static_cast<uint64_t>(key) << 32 | (defect(Defect::kTies) ? id : ~id);
}
__device__ __forceinline__ uint32_t id_in_order(uint64_t order) { return defect(Defect::kTies) ? static_cast<uint32_t>(order) : ~static_cast<uint32_t>(order); }

__device__ __forceinline__ void topk(const TopkArgs& args, Place b, int row) {
  constexpr int kCandidates = 64, kHelpers = kMathThreads / kCandidates;
  static_assert(kTileRows * kMathThreads / 32 == kMaxExperts, "a tile a warp, two experts a lane");
  const uint32_t lane = b.thread % 32, warp = b.thread / 32;
  Choice& choice = *args.choice;
  const uint32_t mark = mark_of(args.uses, b) << 31;
  if (row >= static_cast<int>(b.shared.rows)) {
    if (b.thread < kMaskWords) choice.masks[row][b.thread] = mark;
    if (b.thread < kMaxExpertsPerToken) choice.experts[row][b.thread] = make_uint2(mark, mark);  // nobody asks, but a use writes all
    return;
  }
  // A warp owns the experts of a tile: lanes 0 .. 15 sum four high parts of logits each, 16 .. 31 the low ones, then each has the first or the last two of the four.
  const bool low = lane >= 16;
  const uint32_t quad = lane % 16 * 4, first = warp * kTileRows + quad + (low ? 2 : 0), experts = static_cast<uint32_t>(args.experts);
  float4 sum{};
  float factor = 0.0f, bias[2] = {};
  if (static_cast<int>(warp) < args.tiles) {
    const Squares squares = norm_squares(args.norm, row);
#pragma unroll
    for (int j = 0; j < 2; ++j) bias[j] = __ldg(args.bias + min(first + j, experts - 1));
    const bool two = args.low_tiles > 0;
    sum = sum_router_parts(args.parts, b, static_cast<int>(warp) + (low && two ? args.tiles : 0), row * kTileRows + quad, two || !low, [&] {
      // The compiler would begin to add them, and so wait for them, ahead of the parts' loads.
      const Squares late{__uint_as_float(passing(__float_as_uint(squares.of[0]))), __uint_as_float(passing(__float_as_uint(squares.of[1])))};
      factor = norm_factor(args.norm, late);
    });
  }
  constexpr int kGroup = kMaxExperts / kCandidates;
  static_assert(kGroup * kMaxExpertsPerToken == kCandidates);
  struct Candidates {
    uint64_t order[kMaxExperts];
    uint64_t of[2][kCandidates];  // the best of each group; those in the best groups
    float probability[kMaxExperts];
    uint32_t id[kMaxExpertsPerToken];
    uint2 bit[kMaxExpertsPerToken];  // a word of the mask and what the expert is in it
  };
  static_assert(sizeof(Candidates) <= sizeof(b.shared.scratch) && 2 * sizeof(Candidates) <= sizeof(b.shared.input));
  // Of the last two warps, those that have no tile go through what follows once while the others wait for parts: on memory of their own, of whatever lies there, without a result. Its
  // instructions are at hand then.
#pragma unroll 1
  for (bool real = warp < 6 || static_cast<int>(warp) < args.tiles;; real = true) {
    // Numbers anew: all that is derived from them would be computed ahead of the loop, where nothing else is to be waited for.
    const uint32_t thread = passing(b.thread), lane = thread % 32, id = passing(first);
    Candidates& c = *(real ? reinterpret_cast<Candidates*>(b.shared.scratch) : reinterpret_cast<Candidates*>(b.shared.input) + warp % 2);
    const auto together = [&] {
      if (real) math_sync();
      else __syncwarp();
    };
    float logit[2];
    logit[0] = (low ? sum.z : sum.x) + __shfl_xor_sync(~0u, low ? sum.x : sum.z, 16);
    logit[1] = (low ? sum.w : sum.y) + __shfl_xor_sync(~0u, low ? sum.y : sum.w, 16);
    float probability[2], score[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      probability[j] = sigmoid(logit[j] * factor);
      score[j] = probability[j] + bias[j];
    }
    if (args.shared != 0.0f) {
#pragma unroll
      for (int j = 0; j < 2; ++j)
        score[j] = probability[j] * (1.0f - args.shared) + args.shared * shared_number(args.salt, (b.shared.start + row) / 32, id + j) + bias[j];
    }
    // Integers in the order of the scores, a NaN the smallest but for experts that are none.
    uint32_t key[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      key[j] = order_key(score[j]);
      if (!(score[j] == score[j])) key[j] = 1;
      if (id + j >= experts) key[j] = 0;
    }
    // The best are in the groups of eight experts whose best are the best of all groups'. So twice the same: each of 64 numbers finds out how many of the others are ahead of it.
#pragma unroll
    for (int j = 0; j < 2; ++j) c.order[id + j] = place_in_order(key[j], id + j), c.probability[id + j] = probability[j];
    {
      uint32_t most = max(key[0], key[1]);
      most = max(most, __shfl_xor_sync(~0u, most, 1));
      most = max(most, __shfl_xor_sync(~0u, most, 16));
      if (id % kGroup == 0) c.of[0][id / kGroup] = place_in_order(most, id);
    }
    const uint32_t helper = thread % kHelpers;
#pragma unroll 1
    for (int round = 0; round < 2; ++round) {
      together();
      const uint64_t* const of = c.of[round];
      const uint64_t mine = of[thread / kHelpers];
      int some[4] = {};  // chains of additions
#pragma unroll
      for (int i = 0; i < kCandidates / kHelpers; ++i) some[i % 4] += of[(i / 2 * kHelpers + helper) * 2 + i % 2] > mine;
      int ahead = some[0] + some[1] + some[2] + some[3];
#pragma unroll
      for (int step = 1; step < kHelpers; step *= 2) ahead += __shfl_xor_sync(~0u, ahead, step);
      if (ahead < kMaxExpertsPerToken) {
        const uint32_t one = id_in_order(mine) % kMaxExperts;
        if (round == 0) {
          const uint64_t expert[2] = {c.order[one + helper * 2], c.order[one + helper * 2 + 1]};
#pragma unroll
          for (int j = 0; j < 2; ++j) c.of[1][ahead * kGroup + helper * 2 + j] = expert[j];
        } else if (helper == 0) {
          c.id[ahead] = one;
          c.bit[ahead] = make_uint2(one / 16, ahead < args.per_token ? 1u << one % 16 : 0u);
        }
      }
    }
    together();
    if (real && warp > 0) return;
    uint32_t chosen = 0;
#pragma unroll
    for (int n = 0; n < kMaxExpertsPerToken; ++n) {
      if (c.bit[n].x == lane) chosen |= c.bit[n].y;
    }
    if (real) choice.masks[row][lane] = chosen | mark;
    const bool counts = static_cast<int>(lane) < args.per_token;
    const uint32_t id_of_lane = c.id[lane % kMaxExpertsPerToken] % kMaxExperts;
    const float of_lane = counts ? c.probability[id_of_lane] : 0.0f;
    float total = 0.0f;
#pragma unroll
    for (int n = 0; n < kMaxExpertsPerToken; ++n) total += __shfl_sync(~0u, of_lane, n);
    const float weight = __fdividef(of_lane, args.normalise && !defect(Defect::kWeights) ? total + 1e-20f : 1.0f) * args.scale;
    if (real && lane < kMaxExpertsPerToken) choice.experts[row][lane] = make_uint2((counts ? id_of_lane : 0u) | mark, __float_as_uint(fabsf(weight)) | mark);
    if (real) return;
  }
}

}  // namespace kilotoken::stack
