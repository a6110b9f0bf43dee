// The shape of a network of the MiMo-V2 family and of its DFlash draft, layer by layer. Whoever builds an engine has resolved
// every default of the published configs into these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "networks.h"

namespace kilotoken {

struct AttentionPlan {
  size_t q_heads = 0;
  size_t kv_heads = 0;  // q_heads / kv_heads query heads share one
  size_t head_dim = 0;
  size_t v_head_dim = 0;
  size_t rotary_dim = 0;  // the first dimensions of a head that RoPE turns; even
  double rope_theta = 0;
  size_t window = 0;  // visible iff 0 <= query position - key position < window; 0: no limit
  bool sink = false;
  size_t fused_groups = 0;  // groups [Q | K | V] of a fused projection as stored; 0: stored apart
};

struct LayerPlan {
  AttentionPlan attention;
  bool mixture = false;   // of experts; otherwise one dense SwiGLU
  size_t ffn_width = 0;   // of the dense layer or of one expert
};

struct TargetPlan {
  size_t hidden = 0;
  size_t vocab = 0;
  float epsilon = 0;
  float value_scale = 1;
  size_t experts = 0;
  size_t experts_per_token = 0;
  bool normalise_expert_weights = true;
  float routed_scale = 1;
  size_t max_context = 0;  // tokens, prompt and output together
  std::vector<LayerPlan> layers;
  [[no_unique_address]] Networks networks;
};

struct DraftPlan {
  size_t layers = 0;
  AttentionPlan attention;  // the same in every layer
  float epsilon = 0;
  float value_scale = 1;
  size_t ffn_width = 0;
  size_t block_size = 0;                   // anchor and masks
  std::vector<size_t> target_layer_ids;    // whose outputs feed the draft, in order of concatenation
  int32_t mask_token_id = 0;
  [[no_unique_address]] Networks networks;
};

}  // namespace kilotoken
