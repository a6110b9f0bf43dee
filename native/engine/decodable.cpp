#include "decodable.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "core/ties.h"
#include "fault.h"
#include "reference/cpu/sampling.h"

namespace kilotoken {

TopRow top_of(const std::vector<double>& logprobs, size_t most) {
  const size_t k = std::min(most, logprobs.size());
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

void score_row(const float* logits, size_t vocab, const std::vector<int32_t>& ids, size_t at, size_t top_k, Scored& scored) {
  std::vector<double> logprobs;
  log_softmax(logits, vocab, logprobs);
  scored.top.push_back(top_of(logprobs, top_k));
  if (at + 1 < ids.size()) scored.next_logprobs.push_back(logprobs[static_cast<size_t>(ids[at + 1])]);
}

void Decodable::check_ids(const std::vector<int32_t>& ids) const {
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || static_cast<size_t>(ids[i]) >= vocab_size())
      throw InputFault("token id " + std::to_string(ids[i]) + " at index " + std::to_string(i) + " is outside 0 .. " +
                       std::to_string(vocab_size() - 1));
}

void Decodable::check_open(const std::vector<int32_t>& prompt, const Decoding& decoding, const SessionOptions& options) const {
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
  if (options.block_size > 1 && draft_block_size() == 1)
    throw InputFault("the checkpoint has no draft; only block size 1 can be decoded");
  if (options.block_size > draft_block_size())
    throw InputFault("block size " + std::to_string(options.block_size) + " exceeds the draft's " +
                     std::to_string(draft_block_size()));
}

void Decodable::check_score(const std::vector<int32_t>& ids, size_t chunk) const {
  if (ids.empty()) throw InputFault("a sequence to score is empty");
  if (ids.size() > max_context())
    throw InputFault("a sequence of " + std::to_string(ids.size()) + " tokens exceeds the context of " +
                     std::to_string(max_context()));
  check_ids(ids);
  if (chunk == 0 || chunk > kMaxStepRows) throw InputFault("the chunk must lie in 1 .. " + std::to_string(kMaxStepRows));
}

}  // namespace kilotoken
