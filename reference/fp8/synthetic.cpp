#include "synthetic.h"

#include <cstring>
#include <stdexcept>
#include <utility>

#include "core/bf16.h"
#include "synthetic_fill.h"

namespace kilotoken::fp8 {

namespace {

class Maker {
 public:
  Maker(uint64_t seed, const SyntheticShape& shape, SyntheticShard shard) : seed_(seed), shape_(shape), shard_(shard) {}

  // `codes` and, if the format has them, the scales that follow it.
  Linear linear(uint32_t layer, SyntheticPart codes, Format format, size_t count, size_t rows, size_t cols, size_t groups = 1) const {
    Linear w = Linear::make(format, count, rows, cols, groups);
    fill(layer, codes, w.codes);
    if (w.fp8_inputs()) fill(layer, static_cast<SyntheticPart>(static_cast<uint32_t>(codes) + 1), w.scales);
    return w;
  }

  // A vector stored as BF16 or F32, widened.
  Array<float> vector(uint32_t layer, SyntheticPart part, bool f32 = false) const {
    const SyntheticTensor t = synthetic_tensor(shape_, shard_, layer, part);
    std::vector<uint8_t> bytes(t.size());
    synthetic_rows(seed_, t, 0, static_cast<uint64_t>(t.groups) * t.rows, bytes.data());
    std::vector<float> values(bytes.size() / (f32 ? 4 : 2));
    if (f32) std::memcpy(values.data(), bytes.data(), bytes.size());
    else
      for (size_t i = 0; i < values.size(); ++i) values[i] = bf16_to_float(static_cast<uint16_t>(bytes[2 * i] | bytes[2 * i + 1] << 8));
    return Array<float>(values);
  }

  void wait() const { stream_.wait(); }

 private:
  void fill(uint32_t layer, SyntheticPart part, const Memory& to) const {
    const SyntheticTensor t = synthetic_tensor(shape_, shard_, layer, part);
    if (t.size() != to.bytes()) throw std::logic_error("a synthetic tensor and its weight differ in size");
    synthetic_fill(seed_, t, to.data(), stream_);
  }

  const uint64_t seed_;
  const SyntheticShape& shape_;
  const SyntheticShard shard_;
  Stream stream_;
};

}  // namespace

TargetPlan synthetic_plan(const SyntheticShape& whole, SyntheticShard shard, size_t max_context) {
  const SyntheticShape s = synthetic_shard_shape(whole, shard);
  TargetPlan plan;
  plan.hidden = s.hidden;
  plan.vocab = s.vocab;
  plan.epsilon = 1e-5f;
  plan.value_scale = 0.612f;
  plan.experts = s.experts;
  plan.experts_per_token = s.experts_per_token;
  plan.max_context = max_context;
  for (uint32_t l = 0; l < s.layers; ++l) {
    const bool global = synthetic_global_layer(l);
    LayerPlan layer;
    layer.attention.q_heads = s.q_heads;
    layer.attention.kv_heads = s.kv_heads;
    layer.attention.head_dim = s.head_dim;
    layer.attention.v_head_dim = s.v_head_dim;
    layer.attention.rotary_dim = s.rotary_dim;
    layer.attention.rope_theta = global ? 1e7 : 1e4;
    layer.attention.window = global ? 0 : s.window;
    layer.attention.sink = !global;
    layer.attention.fused_groups = s.kv_heads;
    layer.mixture = l > 0;
    layer.ffn_width = l > 0 ? s.expert_width : s.dense_width;
    plan.layers.push_back(layer);
  }
  return plan;
}

Weights synthetic_weights(uint64_t seed, const SyntheticShape& whole, SyntheticShard shard) {
  using P = SyntheticPart;
  const SyntheticShape s = synthetic_shard_shape(whole, shard);
  const TargetPlan plan = synthetic_plan(whole, shard, 2);
  const Maker make(seed, whole, shard);
  const Format experts = s.fp8_experts ? Format::kFp8 : Format::kMxfp4;
  const size_t qkv_rows = s.q_heads * s.head_dim + s.kv_heads * (s.head_dim + s.v_head_dim);
  Weights w;
  w.embedding = make.linear(0, P::kEmbedding, Format::kBf16, 1, s.vocab, s.hidden);
  w.head = make.linear(0, P::kHead, Format::kBf16, 1, s.vocab, s.hidden);
  w.final_norm = make.vector(0, P::kFinalNorm);
  for (uint32_t l = 0; l < s.layers; ++l) {
    const LayerPlan& layer_plan = plan.layers[l];
    Layer layer;
    layer.input_norm = make.vector(l, P::kInputNorm);
    layer.post_attention_norm = make.vector(l, P::kPostAttentionNorm);
    layer.attention.qkv = make.linear(l, P::kQkv, Format::kFp8, 1, qkv_rows, s.hidden, s.kv_heads);
    layer.attention.o = make.linear(l, P::kO, Format::kBf16, 1, s.hidden, s.q_heads * s.v_head_dim);
    layer.attention.has_sinks = layer_plan.attention.sink;
    if (layer_plan.attention.sink) layer.attention.sinks = make.vector(l, P::kSinks);
    if (layer_plan.mixture) {
      layer.router = make.linear(l, P::kRouter, Format::kF32, 1, s.experts, s.hidden);
      layer.correction_bias = make.vector(l, P::kCorrectionBias, /*f32=*/true);
      layer.ffn.gate = make.linear(l, P::kGate, experts, s.experts, s.expert_width, s.hidden);
      layer.ffn.up = make.linear(l, P::kUp, experts, s.experts, s.expert_width, s.hidden);
      layer.ffn.down = make.linear(l, P::kDown, experts, s.experts, s.hidden, s.expert_width);
    } else {
      layer.ffn.gate = make.linear(l, P::kDenseGate, Format::kFp8, 1, s.dense_width, s.hidden);
      layer.ffn.up = make.linear(l, P::kDenseUp, Format::kFp8, 1, s.dense_width, s.hidden);
      layer.ffn.down = make.linear(l, P::kDenseDown, Format::kFp8, 1, s.hidden, s.dense_width);
    }
    w.layers.push_back(std::move(layer));
  }
  make.wait();
  return w;
}

}  // namespace kilotoken::fp8
