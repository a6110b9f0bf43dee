// The target of a `pro-synthetic` slice: the plan that goes with core/synthetic.h, and its weights made on the device.
#pragma once

#include <cstdint>

#include "core/synthetic.h"
#include "reference/cpu/plan.h"
#include "weights.h"

namespace kilotoken::fp8 {

// The slice of one rank as a network of its own; no sum over ranks is taken.
TargetPlan synthetic_plan(const SyntheticShape& shape, SyntheticShard shard, size_t max_context);

// Layers of `shape`, the part of one rank. Throws DeviceLack when they do not fit into the GPU's memory.
Weights synthetic_weights(uint64_t seed, const SyntheticShape& shape, SyntheticShard shard);

}  // namespace kilotoken::fp8
