#include "toy.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace kilotoken {

namespace {

// The "cache": the ids of all positions held.
class History final : public SequenceState {
 public:
  size_t length() const override { return ids.size(); }
  void truncate(size_t length) override { ids.resize(length); }
  std::unique_ptr<SequenceState> clone() const override { return std::make_unique<History>(*this); }

  std::vector<int32_t> ids;
};

History& history_of(SequenceState& state) { return static_cast<History&>(state); }

size_t context_of(const std::vector<int32_t>& ids, size_t vocab, size_t order) {
  size_t context = 0;
  for (size_t i = ids.size() - std::min(order, ids.size()); i < ids.size(); ++i) context = context * vocab + static_cast<size_t>(ids[i]);
  return context;
}

}  // namespace

ToyTarget::ToyTarget(size_t vocab, size_t order, size_t max_context, std::vector<float> logits)
    : vocab_(vocab), order_(order), max_context_(max_context), logits_(std::move(logits)) {}

std::unique_ptr<SequenceState> ToyTarget::open() const { return std::make_unique<History>(); }

void ToyTarget::step(SequenceState& state, std::span<const int32_t> ids, size_t first_logit_row, StepOutput& out) const {
  History& history = history_of(state);
  out.logits.clear();
  out.taps.clear();
  for (size_t row = 0; row < ids.size(); ++row) {
    history.ids.push_back(ids[row]);
    out.taps.push_back(static_cast<float>(ids[row]));
    if (row < first_logit_row) continue;
    const auto begin = logits_.begin() + static_cast<std::ptrdiff_t>(context_of(history.ids, vocab_, order_) * vocab_);
    out.logits.insert(out.logits.end(), begin, begin + static_cast<std::ptrdiff_t>(vocab_));
  }
}

ToyDraft::ToyDraft(size_t vocab, size_t order, size_t block_size, std::vector<float> logits)
    : vocab_(vocab), order_(order), block_size_(block_size), logits_(std::move(logits)) {}

std::unique_ptr<SequenceState> ToyDraft::open() const { return std::make_unique<History>(); }

void ToyDraft::extend(SequenceState& state, std::span<const float> taps, size_t rows) const {
  History& history = history_of(state);
  for (size_t row = 0; row < rows; ++row) history.ids.push_back(static_cast<int32_t>(taps[row]));
}

void ToyDraft::propose(SequenceState& state, int32_t anchor, size_t block, std::vector<float>& logits) const {
  History& history = history_of(state);
  history.ids.push_back(anchor);
  const size_t context = context_of(history.ids, vocab_, order_);
  history.ids.pop_back();
  const auto begin = logits_.begin() + static_cast<std::ptrdiff_t>(context * (block_size_ - 1) * vocab_);
  logits.assign(begin, begin + static_cast<std::ptrdiff_t>((block - 1) * vocab_));
}

}  // namespace kilotoken
