// The plain autoregressive target on one GPU: the network of reference/cpu/target.h with every op a launch of its own, none fused, none
// chosen for speed. It shares the decode loop (model.h) and nothing else with the engines it is held against.
// NOTE: every sum has the order of the CPU reference, and the device code is compiled without contraction, so a row of logits has the same
// bits as there; cosines and sines come from the host.
#pragma once

#include <memory>
#include <vector>

#include "reference/cpu/linear_input.h"
#include "reference/cpu/model.h"
#include "reference/cpu/plan.h"
#include "reference/cpu/rope.h"
#include "weights.h"

namespace kilotoken::fp8 {

inline constexpr size_t kMostExpertsPerToken = 64;

class Target final : public TargetModel {
 public:
  // tap_layers: layers whose output is copied to StepOutput::taps, in that order.
  Target(Activations activations, TargetPlan plan, Weights weights, std::vector<size_t> tap_layers);

  size_t vocab_size() const override { return plan_.vocab; }
  size_t max_context() const override { return plan_.max_context; }
  std::unique_ptr<SequenceState> open() const override;
  // Throws DeviceLack when the cache outgrows the GPU's memory, DeviceFault when the GPU fails or hangs.
  void step(SequenceState& state, std::span<const int32_t> ids, size_t first_logit_row, StepOutput& out) const override;

 private:
  const Activations activations_;
  const TargetPlan plan_;
  const Weights weights_;
  const std::vector<size_t> tap_layers_;
  std::vector<Rope> ropes_;  // one per distinct theta and rotary width
  std::vector<size_t> rope_of_layer_;
};

}  // namespace kilotoken::fp8
