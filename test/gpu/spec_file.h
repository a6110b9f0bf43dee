// Reads what write-spec.mjs wrote: a checkpoint as the engine's loader takes it.
#pragma once

#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>

#include "native/engine/spec.h"

namespace kilotoken {

inline void read_heads(std::istream& in, AttentionPlan& a) {
  in >> a.q_heads >> a.kv_heads >> a.head_dim >> a.v_head_dim >> a.rotary_dim >> a.rope_theta >> a.window >> a.sink;
}

inline ModelSpec read_spec(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + " cannot be read");
  ModelSpec spec;
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream in(line);
    std::string word;
    in >> word;
    TargetPlan& target = spec.target;
    if (word == "target") {
      in >> target.hidden >> target.vocab >> target.epsilon >> target.value_scale >> target.experts >> target.experts_per_token >>
          target.normalise_expert_weights >> target.routed_scale >> target.max_context >> spec.head_tensor;
    } else if (word == "layer") {
      LayerPlan layer;
      read_heads(in, layer.attention);
      in >> layer.attention.fused_groups >> layer.mixture >> layer.ffn_width;
      target.layers.push_back(layer);
    } else if (word == "tensor" || word == "draft_tensor") {
      TensorRecord record;
      std::string name;
      size_t dimensions = 0;
      in >> name >> record.dtype >> dimensions;
      record.shape.resize(dimensions);
      for (uint64_t& size : record.shape) in >> size;
      in >> record.file >> record.offset >> record.bytes;
      (word == "tensor" ? spec.tensors : spec.draft_tensors)[name] = record;
    } else if (word == "draft") {
      DraftPlan& draft = spec.draft;
      spec.has_draft = true;
      in >> draft.layers;
      read_heads(in, draft.attention);
      in >> draft.epsilon >> draft.value_scale >> draft.ffn_width >> draft.block_size >> draft.mask_token_id;
    } else if (word == "taps") {
      size_t count = 0;
      in >> count;
      spec.draft.target_layer_ids.resize(count);
      for (size_t& id : spec.draft.target_layer_ids) in >> id;
    } else if (word == "mask") {
      size_t count = 0;
      in >> count;
      spec.mask_embedding.resize(count);
      for (float& value : spec.mask_embedding) in >> value;
    }
    if (in.fail()) throw std::runtime_error(path + ": cannot make out: " + line.substr(0, 80));
  }
  return spec;
}

}  // namespace kilotoken
