// The target: a decoder of the MiMo-V2 family. Per layer, pre-norm residuals:
//   h += attention(norm(h));  h += ffn(norm(h));  and at the end logits = head(norm(h)).
// Taps are the residual stream behind chosen layers, before the final norm. Source: facts of the published configs and weights;
// "MiMo-V2-Flash Technical Report", sections 2.1 and 2.2.
#pragma once

#include <memory>

#include "linear_input.h"
#include "model.h"
#include "plan.h"
#include "rope.h"
#include "weights.h"

namespace kilotoken {

class Target final : public TargetModel {
 public:
  // tap_layers: layers whose output is copied to StepOutput::taps, in that order; a row of taps is [tap_layers][hidden].
  Target(const Ops& ops, Activations activations, TargetPlan plan, TargetWeights weights, std::vector<size_t> tap_layers);

  size_t vocab_size() const override { return plan_.vocab; }
  size_t max_context() const override { return plan_.max_context; }
  std::unique_ptr<SequenceState> open() const override;
  void step(SequenceState& state, std::span<const int32_t> ids, size_t first_logit_row, StepOutput& out) const override;

  const TargetPlan& plan() const { return plan_; }
  const std::shared_ptr<const LinearWeights>& embedding() const { return weights_.embedding; }
  const std::shared_ptr<const LinearWeights>& head() const { return weights_.head; }

 private:
  const Ops& ops_;
  const Activations activations_;
  const TargetPlan plan_;
  const TargetWeights weights_;
  const std::vector<size_t> tap_layers_;
  std::vector<Rope> ropes_;             // one per distinct theta and rotary width
  std::vector<size_t> rope_of_layer_;
};

}  // namespace kilotoken
