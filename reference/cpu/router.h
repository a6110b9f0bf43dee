// Which experts a token uses and with what weight: p = sigmoid(logits); the experts with the largest p + correction bias are
// chosen (ties to the lowest index) and weighted by their p, without the bias, divided by the sum of the chosen.
// Source: DeepSeek-V3 technical report, section 2.1.2 (auxiliary-loss-free balancing), as the MiMo-V2 configs use it.
#pragma once

#include <algorithm>
#include <vector>

#include "core/ties.h"
#include "plan.h"

namespace kilotoken {

struct ExpertChoice {
  int expert;
  float weight;
};

// p, bias: [experts]; biased, ids: scratch. chosen: [experts_per_token], in ascending order of expert.
inline void choose_experts(const TargetPlan& plan, const float* p, const float* bias, std::vector<float>& biased,
                           std::vector<int>& ids, ExpertChoice* chosen) {
  const size_t k = plan.experts_per_token;
  biased.resize(plan.experts);
  ids.resize(k);
  for (size_t e = 0; e < plan.experts; ++e) biased[e] = p[e] + bias[e];
  top_k(biased.data(), static_cast<int>(plan.experts), static_cast<int>(k), ids.data());
  std::sort(ids.begin(), ids.end());
  float total = 0.0f;
  for (const int id : ids) total += plan.networks.expert_score(p[id], biased[id]);
  const float divisor = plan.normalise_expert_weights ? total + 1e-20f : 1.0f;
  for (size_t i = 0; i < k; ++i) {
    const int id = ids[i];
    chosen[i] = {id, plan.networks.expert_score(p[id], biased[id]) / divisor * plan.routed_scale};
  }
}

}  // namespace kilotoken
