#include "target.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "attention.cuh"
#include "elementwise.cuh"
#include "embedding.cuh"
#include "linear.cuh"
#include "quantise_activation.cuh"
#include "rmsnorm.cuh"
#include "rope_cache.cuh"
#include "router.cuh"

namespace kilotoken::fp8 {

namespace {

constexpr size_t kLayersInFlight = 16;             // launches queue up; a wait in between keeps a hang within reach of its deadline
constexpr size_t kScoreBytes = size_t{256} << 20;  // of attention scores at a time

struct LayerCache {
  Memory keys, values;  // [capacity][kv_heads][head_dim], [capacity][kv_heads][v_head_dim]
};

size_t element_bytes(Activations activations) { return activations == Activations::kFp8 ? sizeof(uint16_t) : sizeof(float); }

// Rows as they are, and as linears with FP8 or MXFP4 weights see them.
struct Input {
  const float* plain;
  const float* fp8;
};

struct TargetState final : SequenceState {
  const TargetPlan& plan;
  const size_t cache_element;
  Stream stream;
  std::vector<LayerCache> cache;
  size_t positions = 0, capacity = 0;

  Array<int32_t> ids, experts;
  Array<float> hidden, normed, normed_fp8, branch, qkv, scores, denominators, heads_out, heads_fp8, router, expert_weights, gate, up,
      gate_fp8, expert_out, logits, taps, cosine, sine;
  Array<uint8_t> touched;

  TargetState(const TargetPlan& plan, Activations activations)
      : plan(plan), cache_element(element_bytes(activations)), cache(plan.layers.size()) {}

  size_t length() const override { return positions; }
  void truncate(size_t length) override { positions = std::min(length, positions); }
  std::unique_ptr<SequenceState> clone() const override;

  size_t key_bytes(size_t layer) const { return plan.layers[layer].attention.kv_heads * plan.layers[layer].attention.head_dim * cache_element; }
  size_t value_bytes(size_t layer) const {
    return plan.layers[layer].attention.kv_heads * plan.layers[layer].attention.v_head_dim * cache_element;
  }

  // Room for `least` positions. What was not written yet is NaN in every format, so that a read beyond the valid length shows.
  void reserve(size_t least) {
    if (least <= capacity) return;
    const size_t wanted = std::min(std::max({least, 2 * capacity, size_t{256}}), std::max(least, plan.max_context));
    std::vector<LayerCache> larger(cache.size());
    for (size_t l = 0; l < cache.size(); ++l) {
      copy(cache[l].keys, larger[l].keys, key_bytes(l), wanted);
      copy(cache[l].values, larger[l].values, value_bytes(l), wanted);
    }
    stream.wait();
    cache = std::move(larger);
    capacity = wanted;
  }

  void copy(const Memory& from, Memory& to, size_t bytes_each, size_t room) const {
    if (room == 0) return;
    to.grow(bytes_each * room);
    check(cudaMemsetAsync(to.data(), 0xff, to.bytes(), stream), "growing the cache");
    if (positions == 0) return;
    check(cudaMemcpyAsync(to.data(), from.data(), bytes_each * positions, cudaMemcpyDeviceToDevice, stream), "growing the cache");
  }
};

std::unique_ptr<SequenceState> TargetState::clone() const {
  auto twin = std::make_unique<TargetState>(plan, cache_element == sizeof(uint16_t) ? Activations::kFp8 : Activations::kBf16);
  for (size_t l = 0; l < cache.size(); ++l) {
    copy(cache[l].keys, twin->cache[l].keys, key_bytes(l), capacity);
    copy(cache[l].values, twin->cache[l].values, value_bytes(l), capacity);
  }
  stream.wait();
  twin->positions = positions;
  twin->capacity = capacity;
  return twin;
}

// One step: the parts of Target::step that need all of this.
class Step {
 public:
  Step(Activations activations, const TargetPlan& plan, TargetState& state, size_t rows)
      : fp8_(activations == Activations::kFp8), plan_(plan), s_(state), rows_(rows) {}

  Input input(const float* x, size_t rows, size_t cols, Array<float>& quantised) const {
    if (!fp8_) return {x, x};
    quantised.grow(rows * cols);
    quantise_activation(x, rows, cols, quantised.data(), s_.stream);
    return {x, quantised.data()};
  }
  const float* seen_by(const Linear& w, const Input& in) const { return w.fp8_inputs() ? in.fp8 : in.plain; }
  void apply(const Linear& w, const Input& in, size_t rows, float* y, size_t y_stride) const {
    linear(w, seen_by(w, in), rows, y, y_stride, s_.stream);
  }
  Input norm(const Array<float>& weight) const {
    rmsnorm(s_.hidden.data(), weight.data(), rows_, plan_.hidden, plan_.epsilon, s_.normed.data(), s_.stream);
    return input(s_.normed.data(), rows_, plan_.hidden, s_.normed_fp8);
  }
  void add_branch() const { add(s_.branch.data(), rows_ * plan_.hidden, s_.hidden.data(), s_.stream); }

  void attention_branch(const AttentionPlan& plan, const Attention& w, const Input& in, LayerCache& cache, const RopeTurns& turns) const;
  void dense_branch(const Ffn& w, const Input& in) const;
  void mixture_branch(const LayerPlan& plan, const Layer& w, const Input& in, uint8_t* touched) const;

 private:
  template <class V>
  void attend(const AttentionPlan& plan, const HeadLayout& layout, const float* sinks, LayerCache& cache) const;

  const bool fp8_;
  const TargetPlan& plan_;
  TargetState& s_;
  const size_t rows_;
};

void Step::attention_branch(const AttentionPlan& plan, const Attention& w, const Input& in, LayerCache& cache, const RopeTurns& turns) const {
  const HeadLayout layout{static_cast<uint32_t>(std::max<size_t>(1, plan.fused_groups)), static_cast<uint32_t>(plan.q_heads),
                          static_cast<uint32_t>(plan.kv_heads), static_cast<uint32_t>(plan.head_dim), static_cast<uint32_t>(plan.v_head_dim)};
  const size_t width = layout.row_width(), out_cols = plan.q_heads * plan.v_head_dim;
  s_.qkv.grow(rows_ * width);
  s_.heads_out.grow(rows_ * out_cols);
  if (plan.fused_groups > 0) {
    apply(w.qkv, in, rows_, s_.qkv.data(), width);
  } else {
    apply(w.q, in, rows_, s_.qkv.data(), width);
    apply(w.k, in, rows_, s_.qkv.data() + layout.k_at(0), width);
    apply(w.v, in, rows_, s_.qkv.data() + layout.v_at(0), width);
  }
  rope(layout, turns, rows_, s_.qkv.data(), s_.stream);
  const float* sinks = w.has_sinks ? w.sinks.data() : nullptr;
  if (fp8_) attend<uint16_t>(plan, layout, sinks, cache);
  else attend<float>(plan, layout, sinks, cache);
  apply(w.o, input(s_.heads_out.data(), rows_, out_cols, s_.heads_fp8), rows_, s_.branch.data(), plan_.hidden);
}

// V: of the cache. Rows are taken as many at a time as their scores fit.
template <class V>
void Step::attend(const AttentionPlan& plan, const HeadLayout& layout, const float* sinks, LayerCache& cache) const {
  V* keys = cache.keys.as<V>();
  V* values = cache.values.as<V>();
  cache_keys_values(layout, s_.qkv.data(), rows_, s_.positions, plan_.value_scale, keys, values, s_.stream);
  const size_t most = plan.window == 0 ? s_.positions + rows_ : std::min(plan.window, s_.positions + rows_);
  const size_t at_once = std::clamp<size_t>(kScoreBytes / (plan.q_heads * most * sizeof(float)), 1, rows_);
  s_.scores.grow(at_once * plan.q_heads * most);
  s_.denominators.grow(at_once * plan.q_heads);
  for (size_t row = 0; row < rows_; row += at_once) {
    AttentionStep a{};
    a.layout = layout;
    a.rows = static_cast<uint32_t>(std::min(at_once, rows_ - row));
    a.start = static_cast<uint32_t>(s_.positions + row);
    a.window = static_cast<uint32_t>(plan.window);
    a.stride = static_cast<uint32_t>(most);
    a.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(plan.head_dim)));
    attention(a, s_.qkv.data() + row * layout.row_width(), keys, values, sinks, s_.scores.data(), s_.denominators.data(),
              s_.heads_out.data() + row * plan.q_heads * plan.v_head_dim, s_.stream);
  }
}

void Step::dense_branch(const Ffn& w, const Input& in) const {
  const size_t width = w.gate.rows;
  s_.gate.grow(rows_ * width);
  s_.up.grow(rows_ * width);
  apply(w.gate, in, rows_, s_.gate.data(), width);
  apply(w.up, in, rows_, s_.up.data(), width);
  swiglu(s_.gate.data(), s_.up.data(), rows_ * width, s_.gate.data(), s_.stream);
  apply(w.down, input(s_.gate.data(), rows_, width, s_.gate_fp8), rows_, s_.branch.data(), plan_.hidden);
}

void Step::mixture_branch(const LayerPlan& plan, const Layer& w, const Input& in, uint8_t* touched) const {
  const size_t k = plan_.experts_per_token, pairs = rows_ * k, width = plan.ffn_width;
  s_.router.grow(rows_ * plan_.experts);
  s_.experts.grow(pairs);
  s_.expert_weights.grow(pairs);
  s_.gate.grow(pairs * width);
  s_.up.grow(pairs * width);
  s_.expert_out.grow(pairs * plan_.hidden);
  apply(w.router, in, rows_, s_.router.data(), plan_.experts);
  sigmoid(s_.router.data(), rows_ * plan_.experts, s_.router.data(), s_.stream);
  const RouterRule rule{static_cast<uint32_t>(plan_.experts), static_cast<uint32_t>(k), plan_.normalise_expert_weights, plan_.routed_scale};
  choose_experts(rule, s_.router.data(), w.correction_bias.data(), rows_, s_.experts.data(), s_.expert_weights.data(), touched, s_.stream);
  expert_linear(w.ffn.gate, s_.experts.data(), pairs, k, seen_by(w.ffn.gate, in), s_.gate.data(), s_.stream);
  expert_linear(w.ffn.up, s_.experts.data(), pairs, k, seen_by(w.ffn.up, in), s_.up.data(), s_.stream);
  swiglu(s_.gate.data(), s_.up.data(), pairs * width, s_.gate.data(), s_.stream);
  const Input down_in = input(s_.gate.data(), pairs, width, s_.gate_fp8);
  expert_linear(w.ffn.down, s_.experts.data(), pairs, 1, seen_by(w.ffn.down, down_in), s_.expert_out.data(), s_.stream);
  combine(s_.expert_out.data(), s_.expert_weights.data(), rows_, k, plan_.hidden, s_.branch.data(), s_.stream);
}

}  // namespace

Target::Target(Activations activations, TargetPlan plan, Weights weights, std::vector<size_t> tap_layers)
    : activations_(activations), plan_(std::move(plan)), weights_(std::move(weights)), tap_layers_(std::move(tap_layers)) {
  for (const LayerPlan& layer : plan_.layers) {
    const auto [theta, dim] = std::pair{layer.attention.rope_theta, layer.attention.rotary_dim};
    const auto known = std::find_if(ropes_.begin(), ropes_.end(), [&](const Rope& rope) { return rope.is(theta, dim); });
    rope_of_layer_.push_back(static_cast<size_t>(known - ropes_.begin()));
    if (known == ropes_.end()) ropes_.emplace_back(theta, dim);
  }
  check(cudaDeviceSynchronize(), "copying weights to the GPU");
}

std::unique_ptr<SequenceState> Target::open() const { return std::make_unique<TargetState>(plan_, activations_); }

void Target::step(SequenceState& sequence, std::span<const int32_t> ids, size_t first_logit_row, StepOutput& out) const {
  auto& s = static_cast<TargetState&>(sequence);
  const size_t rows = ids.size(), hidden = plan_.hidden;
  const size_t mixtures = std::count_if(plan_.layers.begin(), plan_.layers.end(), [](const LayerPlan& layer) { return layer.mixture; });
  s.reserve(s.positions + rows);
  s.ids.grow(rows);
  s.hidden.grow(rows * hidden);
  s.normed.grow(rows * hidden);
  s.branch.grow(rows * hidden);
  s.taps.grow(rows * tap_layers_.size() * hidden);
  s.touched.grow(mixtures * plan_.experts);
  to_device(s.ids.data(), ids.data(), rows, s.stream);
  if (mixtures > 0) check(cudaMemsetAsync(s.touched.data(), 0, mixtures * plan_.experts, s.stream), "clearing");

  // Turns of all ropes, one behind the other: [ropes][rows][half].
  std::vector<float> cosine, sine;
  std::vector<size_t> turns_at;
  std::vector<RopeRow> turns;
  for (const Rope& rope : ropes_) {
    turns_at.push_back(cosine.size());
    rope.turns(s.positions, rows, turns);
    for (const RopeRow& row : turns) {
      cosine.insert(cosine.end(), row.cosine.begin(), row.cosine.end());
      sine.insert(sine.end(), row.sine.begin(), row.sine.end());
    }
  }
  s.cosine.grow(cosine.size());
  s.sine.grow(sine.size());
  to_device(s.cosine.data(), cosine.data(), cosine.size(), s.stream);
  to_device(s.sine.data(), sine.data(), sine.size(), s.stream);

  const Step step(activations_, plan_, s, rows);
  embedding(weights_.embedding, s.ids.data(), rows, s.hidden.data(), s.stream);
  size_t mixture_layer = 0;
  for (size_t l = 0; l < plan_.layers.size(); ++l) {
    const LayerPlan& plan = plan_.layers[l];
    const Layer& w = weights_.layers[l];
    const size_t at = turns_at[rope_of_layer_[l]];
    step.attention_branch(plan.attention, w.attention, step.norm(w.input_norm), s.cache[l],
                          RopeTurns{s.cosine.data() + at, s.sine.data() + at, plan.attention.rotary_dim / 2});
    step.add_branch();
    const Input ffn_in = step.norm(w.post_attention_norm);
    if (plan.mixture) step.mixture_branch(plan, w, ffn_in, s.touched.data() + mixture_layer++ * plan_.experts);
    else step.dense_branch(w.ffn, ffn_in);
    step.add_branch();
    for (size_t t = 0; t < tap_layers_.size(); ++t)
      if (tap_layers_[t] == l)
        check(cudaMemcpy2DAsync(s.taps.data() + t * hidden, tap_layers_.size() * hidden * sizeof(float), s.hidden.data(), hidden * sizeof(float),
                                hidden * sizeof(float), rows, cudaMemcpyDeviceToDevice, s.stream),
              "copying taps");
    if (l % kLayersInFlight == kLayersInFlight - 1) s.stream.wait();
  }

  const size_t logit_rows = first_logit_row < rows ? rows - first_logit_row : 0;
  out.logits.resize(logit_rows * plan_.vocab);
  out.taps.resize(rows * tap_layers_.size() * hidden);
  s.logits.grow(out.logits.size());
  if (logit_rows > 0) {
    const Linear& head = weights_.tied ? weights_.embedding : weights_.head;
    const Input in = step.norm(weights_.final_norm);
    const size_t skip = first_logit_row * hidden;
    step.apply(head, Input{in.plain + skip, in.fp8 + skip}, logit_rows, s.logits.data(), plan_.vocab);
  }
  s.stream.wait();
  std::vector<uint8_t> touched(mixtures * plan_.experts);
  to_host(out.logits.data(), s.logits.data(), out.logits.size(), s.stream);
  to_host(out.taps.data(), s.taps.data(), out.taps.size(), s.stream);
  to_host(touched.data(), s.touched.data(), touched.size(), s.stream);
  s.stream.wait();
  out.experts_per_layer = plan_.experts;
  out.experts_touched.resize(touched.size());
  for (size_t i = 0; i < touched.size(); ++i) out.experts_touched[i] |= touched[i];
  s.positions += rows;
}

}  // namespace kilotoken::fp8
