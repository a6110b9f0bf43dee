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

TopRow top_of(const std::vector<double>& logprobs, size_t k) {
  std::vector<int32_t> ids(logprobs.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(k), ids.end(),
                    [&](int32_t a, int32_t b) { return ranks_before(logprobs[a], a, logprobs[b], b); });
  ids.resize(k);
  TopRow row;
  for (const int32_t id : ids) row.logprobs.push_back(logprobs[id]);
  row.ids = std::move(ids);
  return row;
}

}  // namespace

Model::Model(std::shared_ptr<const TargetModel> target, std::shared_ptr<const DraftModel> draft)
    : target_(std::move(target)), draft_(std::move(draft)) {}

void Model::check_ids(const std::vector<int32_t>& ids) const {
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || static_cast<size_t>(ids[i]) >= vocab_size())
      throw InputFault("token id " + std::to_string(ids[i]) + " at index " + std::to_string(i) + " is outside 0 .. " +
                       std::to_string(vocab_size() - 1));
}

size_t Model::check_top_k(size_t top_k) const { return std::min(top_k, vocab_size()); }

std::unique_ptr<Session> Model::open(std::vector<int32_t> prompt, Decoding decoding, SessionOptions options) const {
  if (prompt.empty()) throw InputFault("the prompt is empty");
  if (prompt.size() >= max_context())
    throw InputFault("a prompt of " + std::to_string(prompt.size()) + " tokens leaves no room in a context of " +
                     std::to_string(max_context()));
  check_ids(prompt);
  check_ids(decoding.stop_ids);
  if (!(decoding.temperature >= 0) || !std::isfinite(decoding.temperature))
    throw InputFault("temperature must be a finite number, 0 or more");
  if (!(decoding.top_p > 0 && decoding.top_p <= 1)) throw InputFault("top-p must lie in (0, 1]");
  if (decoding.max_tokens == 0) throw InputFault("max tokens must be at least 1");
  if (options.block_size == 0) throw InputFault("the block size must be at least 1");
  if (options.block_size > 1 && !draft_) throw InputFault("the checkpoint has no draft; only block size 1 can be decoded");
  if (options.block_size > draft_block_size())
    throw InputFault("block size " + std::to_string(options.block_size) + " exceeds the draft's " +
                     std::to_string(draft_block_size()));
  return std::make_unique<Session>(target_, draft_, std::move(prompt), std::move(decoding), std::move(options));
}

Scored Model::score(const std::vector<int32_t>& ids, size_t top_k, size_t chunk) const {
  if (ids.empty()) throw InputFault("a sequence to score is empty");
  if (ids.size() > max_context())
    throw InputFault("a sequence of " + std::to_string(ids.size()) + " tokens exceeds the context of " +
                     std::to_string(max_context()));
  check_ids(ids);
  if (chunk == 0 || chunk > kMaxStepRows) throw InputFault("the chunk must lie in 1 .. " + std::to_string(kMaxStepRows));
  const size_t k = check_top_k(top_k);
  Scored result;
  StepOutput out;
  std::vector<double> logprobs;
  const std::unique_ptr<SequenceState> state = target_->open();
  for (size_t begin = 0; begin < ids.size(); begin += chunk) {
    const size_t rows = std::min(chunk, ids.size() - begin);
    target_->step(*state, std::span(ids).subspan(begin, rows), 0, out);
    for (size_t r = 0; r < rows; ++r) {
      log_softmax(out.logits.data() + r * vocab_size(), vocab_size(), logprobs);
      result.top.push_back(top_of(logprobs, k));
      if (begin + r + 1 < ids.size()) result.next_logprobs.push_back(logprobs[static_cast<size_t>(ids[begin + r + 1])]);
    }
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
  const size_t k = check_top_k(top_k);
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
    rows.push_back(top_of(logprobs, k));
  }
  return rows;
}

}  // namespace kilotoken
