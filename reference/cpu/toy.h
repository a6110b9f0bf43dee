// A target and a draft that are tables of logits: a Markov model of order m, and a draft whose rows for a whole block depend on
// the committed prefix alone, as DFlash's do. Small enough for every outcome to be listed, and run by the decode loop like any network.
// Each state keeps the token ids it was given, as a transformer keeps keys and values: a row is looked up by what the cache holds,
// so that a token left behind by a wrong rollback, or missing from it, changes the rows that follow.
// A context is the last m ids read as a number in base V, the oldest the most significant digit; ids missing in front count as 0.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model.h"

namespace kilotoken {

class ToyTarget final : public TargetModel {
 public:
  // logits: [vocab^order][vocab], the row behind each context. vocab >= 1, order >= 1, and the table has that size.
  ToyTarget(size_t vocab, size_t order, size_t max_context, std::vector<float> logits);

  size_t vocab_size() const override { return vocab_; }
  size_t max_context() const override { return max_context_; }
  std::unique_ptr<SequenceState> open() const override;
  // A row's tap is its token id; exact, since vocab <= 2^24.
  void step(SequenceState& state, std::span<const int32_t> ids, size_t first_logit_row, StepOutput& out) const override;

 private:
  size_t vocab_, order_, max_context_;
  std::vector<float> logits_;
};

class ToyDraft final : public DraftModel {
 public:
  // logits: [vocab^order][block_size - 1][vocab], by the context that ends with the anchor, and slot.
  ToyDraft(size_t vocab, size_t order, size_t block_size, std::vector<float> logits);

  size_t block_size() const override { return block_size_; }
  std::unique_ptr<SequenceState> open() const override;
  void extend(SequenceState& state, std::span<const float> taps, size_t rows) const override;
  void propose(SequenceState& state, int32_t anchor, size_t block, std::vector<float>& logits) const override;

 private:
  size_t vocab_, order_, block_size_;
  std::vector<float> logits_;
};

}  // namespace kilotoken
