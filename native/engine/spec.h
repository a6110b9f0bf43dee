// A checked checkpoint as it arrives from outside: the plans of the networks, and where each tensor lies on disk. The reader in
// native/checkpoint has checked it against config.json; the engine still trusts no size of it (tensors.h).
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "reference/cpu/linear_input.h"
#include "reference/cpu/plan.h"

namespace kilotoken {

struct TensorRecord {
  std::string dtype;  // as safetensors spells it
  std::vector<uint64_t> shape;
  std::string file;
  uint64_t offset = 0;  // of the first byte, from the start of the file
  uint64_t bytes = 0;
};

using TensorMap = std::unordered_map<std::string, TensorRecord>;

struct ModelSpec {
  TargetPlan target;
  std::string head_tensor;  // the embedding's own name when tied
  TensorMap tensors;
  bool has_draft = false;
  DraftPlan draft;
  std::vector<float> mask_embedding;  // [hidden]
  TensorMap draft_tensors;
  Activations activations = Activations::kBf16;
  std::string instruction_set;  // of the ops table; empty: the best this machine has
};

// Throws InputFault for plans that no engine can hold.
void check_spec(const ModelSpec& spec);

}  // namespace kilotoken
