#include "target.h"

#include <algorithm>
#include <utility>

#include "attention_layer.h"
#include "embedding.h"
#include "ffn.h"
#include "kv_cache.h"

namespace kilotoken {

namespace {

struct TargetState final : SequenceState {
  KvCache cache;
  AttentionScratch attention;
  FfnScratch ffn;
  AlignedVector<float> hidden, normed, branch;
  InputScratch input;
  std::vector<std::vector<RopeRow>> turns;  // [ropes][rows]

  size_t length() const override { return cache.length; }
  void truncate(size_t length) override { cache.length = std::min(length, cache.length); }
  std::unique_ptr<SequenceState> clone() const override {
    auto copy = std::make_unique<TargetState>();
    copy->cache = cache;
    return copy;
  }
};

}  // namespace

Target::Target(const Ops& ops, Activations activations, TargetPlan plan, TargetWeights weights, std::vector<size_t> tap_layers)
    : ops_(ops),
      activations_(activations),
      plan_(std::move(plan)),
      weights_(std::move(weights)),
      tap_layers_(std::move(tap_layers)) {
  for (const LayerPlan& layer : plan_.layers) {
    const auto [theta, dim] = std::pair{layer.attention.rope_theta, layer.attention.rotary_dim};
    const auto known = std::find_if(ropes_.begin(), ropes_.end(), [&](const Rope& rope) { return rope.is(theta, dim); });
    rope_of_layer_.push_back(static_cast<size_t>(known - ropes_.begin()));
    if (known == ropes_.end()) ropes_.emplace_back(theta, dim);
  }
}

std::unique_ptr<SequenceState> Target::open() const {
  auto state = std::make_unique<TargetState>();
  for (const LayerPlan& layer : plan_.layers)
    state->cache.layers.emplace_back(layer.attention.kv_heads, layer.attention.head_dim, layer.attention.v_head_dim,
                                      kv_format(activations_));
  return state;
}

void Target::step(SequenceState& sequence, std::span<const int32_t> ids, size_t first_logit_row, StepOutput& out) const {
  auto& s = static_cast<TargetState&>(sequence);
  const size_t rows = ids.size(), hidden = plan_.hidden, start = s.cache.length;
  s.cache.reserve(start + rows);
  s.hidden.resize(rows * hidden);
  s.normed.resize(rows * hidden);
  s.branch.resize(rows * hidden);
  s.attention.first.resize(rows);
  s.attention.end.resize(rows);
  s.turns.resize(ropes_.size());
  for (size_t i = 0; i < ropes_.size(); ++i) ropes_[i].turns(start, rows, s.turns[i]);
  out.taps.resize(rows * tap_layers_.size() * hidden);
  out.experts_per_layer = plan_.experts;
  out.experts_touched.resize(plan_.experts * std::count_if(plan_.layers.begin(), plan_.layers.end(),
                                                           [](const LayerPlan& layer) { return layer.mixture; }));

  const auto norm = [&](const std::vector<float>& weight, size_t first_row) {
    for (size_t r = first_row; r < rows; ++r)
      ops_.rmsnorm(s.hidden.data() + r * hidden, weight.data(), hidden, plan_.epsilon, s.normed.data() + r * hidden);
  };
  const auto add_branch = [&] {
    for (size_t i = 0; i < rows * hidden; ++i) s.hidden[i] += s.branch[i];
  };

  for (size_t r = 0; r < rows; ++r) embed(*weights_.embedding, ids[r], s.hidden.data() + r * hidden);
  const AttentionContext context{ops_, activations_, plan_.epsilon, plan_.value_scale};
  size_t mixture_layer = 0;
  for (size_t l = 0; l < plan_.layers.size(); ++l) {
    const LayerPlan& plan = plan_.layers[l];
    const LayerWeights& w = weights_.layers[l];
    const std::vector<RopeRow>& turns = s.turns[rope_of_layer_[l]];

    norm(w.input_norm, 0);
    const LinearInput attention_in = linear_input(ops_, activations_, s.normed.data(), rows, hidden, s.input);
    cache_keys_values(context, plan.attention, w.attention, attention_in, start, turns, s.cache.layers[l], s.attention);
    for (size_t r = 0; r < rows; ++r) {
      const size_t position = start + r, window = plan.attention.window;
      s.attention.first[r] = static_cast<uint32_t>(window != 0 && position + 1 > window ? position + 1 - window : 0);
      s.attention.end[r] = static_cast<uint32_t>(position + 1);
    }
    attend(context, plan.attention, w.attention, attention_in, turns, s.cache.layers[l], s.attention, s.branch.data());
    add_branch();

    norm(w.post_attention_norm, 0);
    const LinearInput ffn_in = linear_input(ops_, activations_, s.normed.data(), rows, hidden, s.input);
    if (plan.mixture) {
      uint8_t* touched = out.experts_touched.data() + mixture_layer++ * plan_.experts;
      mixture_ffn(ops_, activations_, plan_, w.mixture, ffn_in, s.ffn, s.branch.data(), touched);
    } else {
      swiglu_ffn(ops_, activations_, w.dense, ffn_in, s.ffn, s.branch.data());
    }
    add_branch();

    for (size_t t = 0; t < tap_layers_.size(); ++t) {
      if (tap_layers_[t] != l) continue;
      for (size_t r = 0; r < rows; ++r)
        std::copy_n(s.hidden.data() + r * hidden, hidden, out.taps.data() + (r * tap_layers_.size() + t) * hidden);
    }
  }

  const size_t logit_rows = first_logit_row < rows ? rows - first_logit_row : 0;
  out.logits.resize(logit_rows * plan_.vocab);
  if (logit_rows > 0) {
    norm(weights_.final_norm, first_logit_row);
    const LinearInput head_in = linear_input(ops_, activations_, s.normed.data() + first_logit_row * hidden, logit_rows, hidden, s.input);
    apply_linear(ops_, *weights_.head, head_in, out.logits.data());
  }
  s.cache.length = start + rows;
}

}  // namespace kilotoken
