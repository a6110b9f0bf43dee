// One attention layer around the softmax of attention.h: projections, (the draft's) norms of q and k per head, RoPE, the value
// scale, the cache, the output projection. Target and draft use the same parts.
#pragma once

#include <cstdint>
#include <vector>

#include "kv_cache.h"
#include "linear_input.h"
#include "plan.h"
#include "rope.h"
#include "weights.h"

namespace kilotoken {

// Buffers of one session, grown to the largest step seen.
struct AttentionScratch {
  AlignedVector<float> q, k, v, heads_out, packed_queries, logits;
  InputScratch output_input;
  std::vector<float> denominators;
  std::vector<uint32_t> first, end;
};

struct AttentionContext {
  const Ops& ops;
  Activations activations;
  float epsilon;      // of the q and k norms
  float value_scale;
};

// The cache format that goes with an activation format.
inline KvFormat kv_format(Activations activations) { return activations == Activations::kFp8 ? KvFormat::bf16 : KvFormat::f32; }

// Keys and values of `in`'s rows into the cache at positions first_position, ...; turns: one per row.
void cache_keys_values(const AttentionContext& c, const AttentionPlan& plan, const AttentionWeights& w, const LinearInput& in,
                       size_t first_position, const std::vector<RopeRow>& turns, KvLayer& cache, AttentionScratch& s);

// Attention of `in`'s rows over cached positions [s.first[r], s.end[r]); y: [rows][w.o.rows].
void attend(const AttentionContext& c, const AttentionPlan& plan, const AttentionWeights& w, const LinearInput& in,
            const std::vector<RopeRow>& turns, const KvLayer& cache, AttentionScratch& s, float* y);

}  // namespace kilotoken
