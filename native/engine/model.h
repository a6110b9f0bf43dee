// A loaded checkpoint: target and draft over shared, constant weights, and what a caller may ask of them. Every argument is
// checked here; whatever a caller passes, the answer is a result, an InputFault or an EnvironmentFault.
// All methods are const and may run on several threads at once.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "reference/cpu/decode.h"
#include "reference/cpu/model.h"
#include "spec.h"

namespace kilotoken {

// The k most likely tokens of a row, best first, with natural-log probabilities.
struct TopRow {
  std::vector<int32_t> ids;
  std::vector<double> logprobs;
};

struct Scored {
  std::vector<double> next_logprobs;  // [n - 1]: log p(ids[i + 1] | ids[.. i])
  std::vector<TopRow> top;            // [n]
};

class Model {
 public:
  // Reads and decodes every tensor.
  static std::shared_ptr<const Model> load(const ModelSpec& spec);

  // Over networks made elsewhere; `draft` may be null.
  Model(std::shared_ptr<const TargetModel> target, std::shared_ptr<const DraftModel> draft);

  std::unique_ptr<Session> open(std::vector<int32_t> prompt, Decoding decoding, SessionOptions options) const;

  // Teacher-forced log-probabilities. chunk: rows a step, 1 .. kMaxStepRows; the result does not depend on it.
  Scored score(const std::vector<int32_t>& ids, size_t top_k, size_t chunk) const;

  // The draft's rows behind the anchor ids.back(), whose context is everything before it. [block - 1]
  std::vector<TopRow> draft(const std::vector<int32_t>& ids, size_t top_k) const;

  size_t vocab_size() const { return target_->vocab_size(); }
  size_t max_context() const { return target_->max_context(); }
  size_t draft_block_size() const { return draft_ ? draft_->block_size() : 1; }
  const std::shared_ptr<const TargetModel>& target_model() const { return target_; }
  const std::shared_ptr<const DraftModel>& draft_model() const { return draft_; }  // null without one

 private:
  void check_ids(const std::vector<int32_t>& ids) const;
  size_t check_top_k(size_t top_k) const;

  std::shared_ptr<const TargetModel> target_;
  std::shared_ptr<const DraftModel> draft_;
};

}  // namespace kilotoken
