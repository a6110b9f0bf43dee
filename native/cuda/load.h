// Engines on the GPU behind the same Model that holds the CPU's: what loads them, and what the machine has.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/synthetic.h"
#include "native/engine/model.h"
#include "native/engine/spec.h"

namespace kilotoken {

// A slice of pro-synthetic as one rank sees it; rank 0 of 1 is the whole width.
struct SyntheticSpec {
  uint64_t seed = 1;
  SyntheticShape shape;
  SyntheticShard shard;
  size_t max_context = 0;
  Activations activations = Activations::kFp8;
};

struct GpuReport {
  std::string lack;  // why nothing can run here, or empty
  std::string name;
  int major = 0, minor = 0;
  int driver_version = 0, runtime_version = 0;  // of CUDA, 1000 * major + 10 * minor
  uint64_t memory = 0, free_memory = 0;
};
GpuReport inspect_gpu();

// The plain FP8 target on the GPU. A draft, if the checkpoint has one, stays on the CPU, loaded beside it.
// Throws InputFault as Model::load does, and the faults of reference/fp8/fault.h.
std::shared_ptr<const Model> load_reference_cuda(const ModelSpec& spec);
std::shared_ptr<const Model> load_reference_cuda(const SyntheticSpec& spec);

}  // namespace kilotoken
