// All weights of a target and of a draft, decoded. Built once, then shared and only read.
#pragma once

#include <memory>
#include <vector>

#include "linear_weights.h"
#include "plan.h"

namespace kilotoken {

struct AttentionWeights {
  LinearWeights q, k, v, o;
  std::vector<float> sinks;           // [q_heads], or empty
  std::vector<float> q_norm, k_norm;  // [head_dim], the draft's; empty in the target
};

struct FfnWeights {
  LinearWeights gate, up, down;
};

struct MixtureWeights {
  LinearWeights router;                // [experts][hidden]
  std::vector<float> correction_bias;  // [experts]; enters the choice of experts only
  std::vector<FfnWeights> experts;
};

struct LayerWeights {
  std::vector<float> input_norm, post_attention_norm;  // [hidden]
  AttentionWeights attention;
  FfnWeights dense;        // filled if the layer is dense
  MixtureWeights mixture;  // filled otherwise
};

struct TargetWeights {
  std::shared_ptr<const LinearWeights> embedding;  // [vocab][hidden]
  std::shared_ptr<const LinearWeights> head;       // the same object when tied
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;
};

struct DraftLayerWeights {
  std::vector<float> input_norm, post_attention_norm;
  AttentionWeights attention;
  FfnWeights ffn;
};

// The draft embeds with the target's table and predicts with the target's head.
struct DraftWeights {
  LinearWeights fc;                 // [hidden][taps * hidden]
  std::vector<float> hidden_norm;   // of a context feature
  std::vector<DraftLayerWeights> layers;
  std::vector<float> final_norm;
  std::vector<float> mask_embedding;  // [hidden], in the place of the table's row of the mask id
};

}  // namespace kilotoken
