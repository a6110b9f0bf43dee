// What the addon knows of an engine: a model that opens sequences and scores text, whatever decodes it. The decode loop of reference/cpu
// stands behind it, over networks on either device, and the stack, which decides on the GPU.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "reference/cpu/decode.h"

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

// One sequence; used by one thread at a time.
class DecodeSession {
 public:
  virtual ~DecodeSession() = default;
  virtual bool finished() const = 0;
  // One round; the first is the prefill. Not to be called on a finished session. After a throw the session is of no further use.
  virtual Round step() = 0;
  // A copy that continues from here with the same seed and positions.
  virtual std::unique_ptr<DecodeSession> fork() const = 0;
};

// Methods are const and may be called from several threads at once. Arguments are checked: InputFault.
class Decodable {
 public:
  virtual ~Decodable() = default;
  virtual std::unique_ptr<DecodeSession> open(std::vector<int32_t> prompt, Decoding decoding, SessionOptions options) const = 0;
  // Teacher-forced log-probabilities. chunk: rows a step, 1 .. kMaxStepRows; the result does not depend on it.
  virtual Scored score(const std::vector<int32_t>& ids, size_t top_k, size_t chunk) const = 0;
  // The draft's rows behind the anchor ids.back(), whose context is everything before it. [block - 1]
  virtual std::vector<TopRow> draft(const std::vector<int32_t>& ids, size_t top_k) const = 0;
  virtual size_t vocab_size() const = 0;
  virtual size_t max_context() const = 0;
  virtual size_t draft_block_size() const = 0;  // 1: no draft

 protected:
  // Throws InputFault for what no engine with these sizes can decode.
  void check_open(const std::vector<int32_t>& prompt, const Decoding& decoding, const SessionOptions& options) const;
  void check_score(const std::vector<int32_t>& ids, size_t chunk) const;
  void check_ids(const std::vector<int32_t>& ids) const;
};

// The k best of a row of log-probabilities, or all if it has fewer.
TopRow top_of(const std::vector<double>& logprobs, size_t k);

// Appends what a row of logits says of position `at` of `ids` to `scored`.
void score_row(const float* logits, size_t vocab, const std::vector<int32_t>& ids, size_t at, size_t top_k, Scored& scored);

}  // namespace kilotoken
