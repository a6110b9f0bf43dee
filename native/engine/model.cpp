#include "model.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>
#include <utility>

#include "core/ties.h"
#include "fault.h"
#include "reference/cpu/sampling.h"

namespace kilotoken {

namespace {

// The decode loop of reference/cpu.
class LoopSession final : public DecodeSession {
 public:
  explicit LoopSession(std::unique_ptr<Session> session) : session_(std::move(session)) {}
  bool finished() const override { return session_->finished(); }
  Round step() override { return session_->step(); }
  std::unique_ptr<DecodeSession> fork() const override { return std::make_unique<LoopSession>(session_->fork()); }

 private:
  std::unique_ptr<Session> session_;
};

}  // namespace

Model::Model(std::shared_ptr<const TargetModel> target, std::shared_ptr<const DraftModel> draft)
    : target_(std::move(target)), draft_(std::move(draft)) {}

std::unique_ptr<DecodeSession> Model::open(std::vector<int32_t> prompt, Decoding decoding, SessionOptions options) const {
  check_open(prompt, decoding, options);
  return std::make_unique<LoopSession>(
      std::make_unique<Session>(target_, draft_, std::move(prompt), std::move(decoding), std::move(options)));
}

Scored Model::score(const std::vector<int32_t>& ids, size_t top_k, size_t chunk) const {
  check_score(ids, chunk);
  Scored result;
  StepOutput out;
  const std::unique_ptr<SequenceState> state = target_->open();
  for (size_t begin = 0; begin < ids.size(); begin += chunk) {
    const size_t rows = std::min(chunk, ids.size() - begin);
    target_->step(*state, std::span(ids).subspan(begin, rows), 0, out);
    for (size_t r = 0; r < rows; ++r) score_row(out.logits.data() + r * vocab_size(), vocab_size(), ids, begin + r, top_k, result);
  }
  return result;
}

std::vector<TopRow> Model::draft(const std::vector<int32_t>& ids, size_t top_k) const {
  if (!draft_) throw InputFault("the checkpoint has no draft");
  if (ids.empty()) throw InputFault("a sequence to draft from is empty");
  if (ids.size() > max_context() || max_context() - ids.size() < draft_block_size() - 1)
    throw InputFault("a sequence of " + std::to_string(ids.size()) + " tokens leaves no room for a block in a context of " +
                     std::to_string(max_context()));
  check_ids(ids);
  StepOutput out;
  const std::unique_ptr<SequenceState> target_state = target_->open(), draft_state = draft_->open();
  for (size_t begin = 0; begin + 1 < ids.size(); begin += kMaxStepRows) {
    const size_t rows = std::min(kMaxStepRows, ids.size() - 1 - begin);
    target_->step(*target_state, std::span(ids).subspan(begin, rows), rows, out);
    draft_->extend(*draft_state, out.taps, rows);
  }
  std::vector<float> logits;
  draft_->propose(*draft_state, ids.back(), draft_block_size(), logits);
  std::vector<TopRow> rows;
  std::vector<double> logprobs;
  for (size_t i = 0; i + 1 < draft_block_size(); ++i) {
    log_softmax(logits.data() + i * vocab_size(), vocab_size(), logprobs);
    rows.push_back(top_of(logprobs, top_k));
  }
  return rows;
}

}  // namespace kilotoken
