// What the decode loop knows of a network: rows in (token ids at consecutive positions, and a handle on the key/value cache),
// rows of logits and taps out. A table of logits can stand behind these as well as a transformer.
// A model is shared and constant; a state belongs to one session and is used by one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace kilotoken {

inline constexpr size_t kMaxStepRows = 64;

// Cache of one sequence.
class SequenceState {
 public:
  virtual ~SequenceState() = default;
  virtual size_t length() const = 0;             // positions held
  virtual void truncate(size_t length) = 0;      // forget positions from `length` on; length <= length()
  virtual std::unique_ptr<SequenceState> clone() const = 0;
};

struct StepOutput {
  std::vector<float> logits;  // [rows - first_logit_row][vocab]
  std::vector<float> taps;    // [rows][tap_width], what the draft reads
  // [mixture layers][experts]: 1 where a row of any step since the caller last cleared it chose the expert.
  std::vector<uint8_t> experts_touched;
  size_t experts_per_layer = 0;
};

class TargetModel {
 public:
  virtual ~TargetModel() = default;
  virtual size_t vocab_size() const = 0;
  virtual size_t max_context() const = 0;
  virtual std::unique_ptr<SequenceState> open() const = 0;
  // Appends `ids` (1 .. kMaxStepRows of them) at positions length(), length() + 1, ...; row i sees all positions up to its own.
  // A row's logits and taps have the same bits however the sequence was cut into steps.
  virtual void step(SequenceState& state, std::span<const int32_t> ids, size_t first_logit_row, StepOutput& out) const = 0;
};

class DraftModel {
 public:
  virtual ~DraftModel() = default;
  virtual size_t block_size() const = 0;  // anchor and drafts of a full block
  virtual std::unique_ptr<SequenceState> open() const = 0;
  // Appends context features of `rows` verified positions. taps: [rows][tap_width].
  virtual void extend(SequenceState& state, std::span<const float> taps, size_t rows) const = 0;
  // Logits for the `block - 1` positions behind the anchor, which stands at position length(). logits: [block - 1][vocab].
  // The state is as before afterwards. 2 <= block <= block_size().
  virtual void propose(SequenceState& state, int32_t anchor, size_t block, std::vector<float>& logits) const = 0;
};

}  // namespace kilotoken
