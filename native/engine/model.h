// A loaded checkpoint: target and draft over shared, constant weights, and what a caller may ask of them. Every argument is
// checked here; whatever a caller passes, the answer is a result, an InputFault or an EnvironmentFault.
// All methods are const and may run on several threads at once.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "decodable.h"
#include "reference/cpu/model.h"
#include "spec.h"

namespace kilotoken {

class Model final : public Decodable {
 public:
  // Reads and decodes every tensor.
  static std::shared_ptr<const Model> load(const ModelSpec& spec);

  // Over networks made elsewhere; `draft` may be null.
  Model(std::shared_ptr<const TargetModel> target, std::shared_ptr<const DraftModel> draft);

  std::unique_ptr<DecodeSession> open(std::vector<int32_t> prompt, Decoding decoding, SessionOptions options) const override;

  Scored score(const std::vector<int32_t>& ids, size_t top_k, size_t chunk) const override;

  std::vector<TopRow> draft(const std::vector<int32_t>& ids, size_t top_k) const override;

  size_t vocab_size() const override { return target_->vocab_size(); }
  size_t max_context() const override { return target_->max_context(); }
  size_t draft_block_size() const override { return draft_ ? draft_->block_size() : 1; }
  const std::shared_ptr<const TargetModel>& target_model() const { return target_; }

 private:
  std::shared_ptr<const TargetModel> target_;
  std::shared_ptr<const DraftModel> draft_;
};

// The CPU's draft of a checkpoint for a target that runs elsewhere: reads the draft, the embedding and the head.
std::shared_ptr<const DraftModel> load_draft_alone(const ModelSpec& spec);

}  // namespace kilotoken
