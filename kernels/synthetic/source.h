// Weights of a pro-synthetic slice, made on the device as a checkpoint would store them (core/synthetic.h).
#pragma once

#include <memory>

#include "core/synthetic.h"
#include "kernels/shapes.h"
#include "kernels/stack.h"

namespace kilotoken::stack {

// The shapes of what one rank holds, as a network of its own. max_context: tokens.
TargetShape synthetic_target(const SyntheticShape& whole, SyntheticShard shard, int max_context);
DraftShape synthetic_draft(const SyntheticShape& whole, SyntheticShard shard);

std::unique_ptr<WeightSource> synthetic_source(uint64_t seed, const SyntheticShape& whole, SyntheticShard shard);

// The same as parts of one network that several GPUs decode together: whole vocabulary and embedding, of the head the rank's rows.
TargetShape synthetic_target_part(const SyntheticShape& whole, SyntheticShard shard, int max_context);
DraftShape synthetic_draft_part(const SyntheticShape& whole, SyntheticShard shard);
std::unique_ptr<WeightSource> synthetic_source_part(uint64_t seed, const SyntheticShape& whole, SyntheticShard shard);

}  // namespace kilotoken::stack
