// The part of a pro-synthetic target that one rank of several holds: query heads and their key/value groups, expert and dense widths, rows of
// the head. Norms, router and embedding are whole on every rank. With more ranks than key/value heads, a head is held by as many ranks as
// share it, each with its own query heads.
#pragma once

#include <cstdint>
#include <string>

#include "core/synthetic.h"
#include "reference/cpu/plan.h"
#include "weights.h"

namespace kilotoken::fp8 {

// What stands in the way of `of` ranks, or null.
const char* rank_misfit(const SyntheticShape& shape, SyntheticShard rank);

// plan.vocab counts the rows of the head that the rank holds; the embedding has all of them.
TargetPlan rank_plan(const SyntheticShape& shape, SyntheticShard rank, size_t max_context);

// Bytes, without making anything: `resident` of all weights, `step` of those that one token reads (of the experts the chosen ones; of the
// embedding one row), `allocated` with what the allocator rounds up.
struct RankBytes {
  uint64_t resident = 0, step = 0, allocated = 0;
};
RankBytes rank_bytes(const SyntheticShape& shape, SyntheticShard rank);

// On the current device. Throws DeviceLack when they do not fit.
Weights rank_weights(uint64_t seed, const SyntheticShape& shape, SyntheticShard rank);

}  // namespace kilotoken::fp8
