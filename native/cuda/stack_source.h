// A checkpoint as the stack takes it: shapes, and tensors brought to the device one by one while it packs them.
#pragma once

#include <memory>

#include "kernels/stack.h"
#include "native/engine/spec.h"

namespace kilotoken {

// Throw InputFault for what the stack cannot hold: head sizes other than 192 or 128, values other than 128, RoPE other than 64 dimensions.
stack::TargetShape stack_target(const TargetPlan& plan);
stack::DraftShape stack_draft(const DraftPlan& plan);

// `spec` outlives it. Throws InputFault for experts that are neither MXFP4 nor FP8 (E4M3 with a scale for each 128 x 128), or not all alike within a layer.
std::unique_ptr<stack::WeightSource> checkpoint_source(const ModelSpec& spec);

}  // namespace kilotoken
