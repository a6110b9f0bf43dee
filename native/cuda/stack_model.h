// The stack behind the addon's interface: rounds that were decided on the GPU, and, when asked, the rows and numbers that decided them,
// recorded as the decode loop of reference/cpu records its own.
#pragma once

#include <memory>

#include "load.h"
#include "native/engine/decodable.h"
#include "native/engine/spec.h"
#include "native/engine/toy.h"

namespace kilotoken {

// Throw InputFault for what the stack cannot hold (experts that are neither MXFP4 nor FP8, other head sizes), and the faults of reference/fp8/fault.h.
std::shared_ptr<const Decodable> load_stack_cuda(const ModelSpec& spec);
std::shared_ptr<const Decodable> load_stack_cuda(const SyntheticSpec& spec);
std::shared_ptr<const Decodable> load_stack_toy(const ToySpec& spec);

}  // namespace kilotoken
