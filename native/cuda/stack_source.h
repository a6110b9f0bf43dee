// A checkpoint as the stack takes it: shapes, and tensors brought to the device one by one while it packs them.
#pragma once

#include <memory>

#include "kernels/stack.h"
#include "native/engine/spec.h"

namespace kilotoken {

// Throw InputFault for what the stack cannot hold: head sizes other than 192 or 128, values other than 128, RoPE other than 64 dimensions.
stack::TargetShape stack_target(const TargetPlan& plan);
stack::DraftShape stack_draft(const DraftPlan& plan);

// `spec` outlives it.
std::unique_ptr<stack::WeightSource> checkpoint_source(const ModelSpec& spec);

}  // namespace kilotoken
