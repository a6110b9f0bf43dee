#include "draft.h"

#include <algorithm>
#include <utility>

#include "attention_layer.h"
#include "embedding.h"
#include "ffn.h"
#include "kv_cache.h"

namespace kilotoken {

namespace {

struct DraftState final : SequenceState {
  KvCache cache;  // context only; a block's keys and values lie behind `length` while it is computed
  AttentionScratch attention;
  FfnScratch ffn;
  AlignedVector<float> hidden, normed, branch;
  InputScratch input;
  std::vector<RopeRow> turns;

  size_t length() const override { return cache.length; }
  void truncate(size_t length) override { cache.length = std::min(length, cache.length); }
  std::unique_ptr<SequenceState> clone() const override {
    auto copy = std::make_unique<DraftState>();
    copy->cache = cache;
    return copy;
  }
};

}  // namespace

Draft::Draft(const Ops& ops, Activations activations, DraftPlan plan, DraftWeights weights, const Target& target)
    : ops_(ops),
      activations_(activations),
      plan_(std::move(plan)),
      weights_(std::move(weights)),
      embedding_(target.embedding()),
      head_(target.head()),
      rope_(plan_.attention.rope_theta, plan_.attention.rotary_dim) {}

std::unique_ptr<SequenceState> Draft::open() const {
  auto state = std::make_unique<DraftState>();
  const AttentionPlan& a = plan_.attention;
  for (size_t l = 0; l < plan_.layers; ++l) state->cache.layers.emplace_back(a.kv_heads, a.head_dim, a.v_head_dim, kv_format(activations_));
  return state;
}

void Draft::extend(SequenceState& sequence, std::span<const float> taps, size_t rows) const {
  auto& s = static_cast<DraftState&>(sequence);
  const size_t hidden = weights_.fc.rows;
  s.cache.reserve(s.cache.length + rows);
  s.hidden.resize(rows * hidden);
  rope_.turns(s.cache.length, rows, s.turns);
  apply_linear(ops_, weights_.fc, linear_input(ops_, activations_, taps.data(), rows, weights_.fc.cols, s.input), s.hidden.data());
  for (size_t r = 0; r < rows; ++r) {
    float* row = s.hidden.data() + r * hidden;
    ops_.rmsnorm(row, weights_.hidden_norm.data(), hidden, plan_.epsilon, row);
  }
  const AttentionContext context{ops_, activations_, plan_.epsilon, plan_.value_scale};
  const LinearInput in = linear_input(ops_, activations_, s.hidden.data(), rows, hidden, s.input);
  for (size_t l = 0; l < plan_.layers; ++l)
    cache_keys_values(context, plan_.attention, weights_.layers[l].attention, in, s.cache.length, s.turns, s.cache.layers[l],
                      s.attention);
  s.cache.length += rows;
}

void Draft::propose(SequenceState& sequence, int32_t anchor, size_t block, std::vector<float>& logits) const {
  auto& s = static_cast<DraftState&>(sequence);
  const size_t hidden = weights_.fc.rows, start = s.cache.length, window = plan_.attention.window;
  s.cache.reserve(start + block);
  s.hidden.resize(block * hidden);
  s.normed.resize(block * hidden);
  s.branch.resize(block * hidden);
  s.attention.first.resize(block);
  s.attention.end.resize(block);
  rope_.turns(start, block, s.turns);
  for (size_t r = 0; r < block; ++r) {
    const size_t position = start + r;
    const size_t first = window != 0 && position + 1 > window ? position + 1 - window : 0;
    s.attention.first[r] = static_cast<uint32_t>(std::min(first, start));  // the window bounds the context, never the block
    s.attention.end[r] = static_cast<uint32_t>(plan_.networks.block_end(position, start + block));
  }

  const auto norm = [&](const std::vector<float>& weight) {
    for (size_t r = 0; r < block; ++r)
      ops_.rmsnorm(s.hidden.data() + r * hidden, weight.data(), hidden, plan_.epsilon, s.normed.data() + r * hidden);
  };
  const auto add_branch = [&] {
    for (size_t i = 0; i < block * hidden; ++i) s.hidden[i] += s.branch[i];
  };
  for (size_t r = 0; r < block; ++r) {
    const int32_t id = r == 0 ? anchor : plan_.mask_token_id;
    float* row = s.hidden.data() + r * hidden;
    if (plan_.networks.masked(id, plan_.mask_token_id)) std::copy(weights_.mask_embedding.begin(), weights_.mask_embedding.end(), row);
    else embed(*embedding_, id, row);
  }
  const AttentionContext context{ops_, activations_, plan_.epsilon, plan_.value_scale};
  for (size_t l = 0; l < plan_.layers; ++l) {
    const DraftLayerWeights& w = weights_.layers[l];
    norm(w.input_norm);
    const LinearInput attention_in = linear_input(ops_, activations_, s.normed.data(), block, hidden, s.input);
    cache_keys_values(context, plan_.attention, w.attention, attention_in, start, s.turns, s.cache.layers[l], s.attention);
    attend(context, plan_.attention, w.attention, attention_in, s.turns, s.cache.layers[l], s.attention, s.branch.data());
    add_branch();
    norm(w.post_attention_norm);
    const LinearInput ffn_in = linear_input(ops_, activations_, s.normed.data(), block, hidden, s.input);
    swiglu_ffn(ops_, activations_, w.ffn, ffn_in, s.ffn, s.branch.data());
    add_branch();
  }
  norm(weights_.final_norm);
  logits.resize((block - 1) * head_->rows);
  const LinearInput head_in = linear_input(ops_, activations_, s.normed.data() + hidden, block - 1, hidden, s.input);
  apply_linear(ops_, *head_, head_in, logits.data());
}

}  // namespace kilotoken
