// DFlash: drafts a whole block in one pass. A context feature c_p = norm(fc(taps of position p)) gives keys and values to every
// draft layer; the block [anchor, MASK, ...] attends to all context in the window and to itself in both directions; the row of
// a MASK predicts the token at its own position. Embedding and head are the target's.
// Source: "DFlash: Block Diffusion for Flash Speculative Decoding", arXiv 2602.06036, section 3, with MiMo's variations: half-dimension
// RoPE, sinks, value scale, sliding window in every layer, a mask embedding of its own.
#pragma once

#include <memory>

#include "linear_input.h"
#include "model.h"
#include "plan.h"
#include "rope.h"
#include "target.h"
#include "weights.h"

namespace kilotoken {

class Draft final : public DraftModel {
 public:
  Draft(const Ops& ops, Activations activations, DraftPlan plan, DraftWeights weights, const Target& target);

  size_t block_size() const override { return plan_.block_size; }
  std::unique_ptr<SequenceState> open() const override;
  void extend(SequenceState& state, std::span<const float> taps, size_t rows) const override;
  void propose(SequenceState& state, int32_t anchor, size_t block, std::vector<float>& logits) const override;

 private:
  const Ops& ops_;
  const Activations activations_;
  const DraftPlan plan_;
  const DraftWeights weights_;
  const std::shared_ptr<const LinearWeights> embedding_, head_;
  const Rope rope_;
};

}  // namespace kilotoken
