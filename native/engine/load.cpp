// From a checked checkpoint to networks: which tensor is which weight. Names as in the published MiMo-V2 and DFlash checkpoints.
#include <cmath>
#include <string>
#include <utility>

#include "fault.h"
#include "model.h"
#include "reference/cpu/draft.h"
#include "reference/cpu/target.h"
#include "tensors.h"

namespace kilotoken {

namespace {

[[noreturn]] void refuse(const std::string& what) { throw InputFault("checkpoint: " + what); }

void need(bool holds, const char* what) {
  if (!holds) refuse(what);
}

constexpr size_t kLargest = size_t{1} << 30;  // of any count; products of two then fit in 64 bits

void check_attention(const AttentionPlan& a) {
  need(a.q_heads > 0 && a.kv_heads > 0 && a.head_dim > 0 && a.v_head_dim > 0, "an attention layer without heads");
  need(a.q_heads <= kLargest && a.head_dim <= kLargest && a.v_head_dim <= kLargest, "an attention layer beyond all bounds");
  need(a.q_heads % a.kv_heads == 0, "query heads that do not divide among key/value heads");
  need(a.rotary_dim % 2 == 0 && a.rotary_dim <= a.head_dim, "a rotary width that does not fit the head");
  need(std::isfinite(a.rope_theta) && a.rope_theta > 0, "a rope theta that is not positive");
  need(a.fused_groups == 0 || a.kv_heads % a.fused_groups == 0, "fused groups that do not divide the key/value heads");
}

void check_target(const TargetPlan& plan) {
  need(plan.hidden > 0 && plan.hidden <= kLargest && plan.vocab > 0 && plan.vocab <= kLargest, "no hidden size or vocabulary");
  need(plan.max_context > 1 && plan.max_context <= kLargest, "a context length beyond all bounds");
  need(!plan.layers.empty(), "no layers");
  need(std::isfinite(plan.epsilon) && plan.epsilon >= 0 && std::isfinite(plan.value_scale) && std::isfinite(plan.routed_scale),
       "a scale that is not finite");
  for (const LayerPlan& layer : plan.layers) {
    check_attention(layer.attention);
    need(layer.ffn_width > 0 && layer.ffn_width <= kLargest, "a feed-forward width of zero or beyond all bounds");
    if (layer.mixture)
      need(plan.experts > 0 && plan.experts <= kLargest && plan.experts_per_token > 0 && plan.experts_per_token <= plan.experts,
           "more experts a token than experts");
  }
}

void check_draft(const ModelSpec& spec) {
  const DraftPlan& plan = spec.draft;
  check_attention(plan.attention);
  need(plan.layers > 0 && plan.ffn_width > 0 && plan.ffn_width <= kLargest, "a draft without layers");
  need(plan.block_size >= 2 && plan.block_size <= kMaxStepRows, "a draft's block size outside 2 .. 64");
  need(std::isfinite(plan.epsilon) && plan.epsilon >= 0 && std::isfinite(plan.value_scale), "a scale that is not finite");
  need(!plan.target_layer_ids.empty(), "a draft that reads no target layer");
  for (const size_t id : plan.target_layer_ids) need(id < spec.target.layers.size(), "a draft that reads a layer the target lacks");
  need(plan.mask_token_id >= 0 && static_cast<size_t>(plan.mask_token_id) < spec.target.vocab, "a mask id outside the vocabulary");
  need(spec.mask_embedding.size() == spec.target.hidden, "a mask embedding of the wrong width");
  for (const float value : spec.mask_embedding) need(std::isfinite(value), "a mask embedding that is not finite");
}

AttentionWeights load_attention(TensorReader& reader, const std::string& base, const AttentionPlan& a, size_t hidden,
                                const Networks& networks) {
  const size_t q_rows = a.q_heads * a.head_dim, k_rows = a.kv_heads * a.head_dim, v_rows = a.kv_heads * a.v_head_dim;
  AttentionWeights w;
  if (a.fused_groups > 0) {
    LinearWeights fused = reader.linear(base + ".qkv_proj", q_rows + k_rows + v_rows, hidden, a.fused_groups);
    const size_t groups = networks.split_groups(a.fused_groups, fused);
    QkvWeights split = split_fused_qkv(fused, groups, q_rows, k_rows, v_rows);
    w.q = std::move(split.q);
    w.k = std::move(split.k);
    w.v = std::move(split.v);
  } else {
    w.q = reader.linear(base + ".q_proj", q_rows, hidden);
    w.k = reader.linear(base + ".k_proj", k_rows, hidden);
    w.v = reader.linear(base + ".v_proj", v_rows, hidden);
  }
  w.o = reader.linear(base + ".o_proj", hidden, a.q_heads * a.v_head_dim);
  if (a.sink) w.sinks = reader.vector(base + ".attention_sink_bias", a.q_heads);
  return w;
}

FfnWeights load_ffn(TensorReader& reader, const std::string& base, size_t hidden, size_t width) {
  return {reader.linear(base + ".gate_proj", width, hidden), reader.linear(base + ".up_proj", width, hidden),
          reader.linear(base + ".down_proj", hidden, width)};
}

LayerWeights load_layer(TensorReader& reader, const std::string& base, const TargetPlan& plan, const LayerPlan& layer) {
  LayerWeights w;
  w.input_norm = reader.vector(base + ".input_layernorm.weight", plan.hidden);
  w.post_attention_norm = reader.vector(base + ".post_attention_layernorm.weight", plan.hidden);
  w.attention = load_attention(reader, base + ".self_attn", layer.attention, plan.hidden, plan.networks);
  if (!layer.mixture) {
    w.dense = load_ffn(reader, base + ".mlp", plan.hidden, layer.ffn_width);
    return w;
  }
  w.mixture.router = reader.matrix(base + ".mlp.gate.weight", plan.experts, plan.hidden);
  w.mixture.correction_bias = reader.vector(base + ".mlp.gate.e_score_correction_bias", plan.experts);
  for (size_t e = 0; e < plan.experts; ++e)
    w.mixture.experts.push_back(load_ffn(reader, base + ".mlp.experts." + std::to_string(e), plan.hidden, layer.ffn_width));
  return w;
}

// What a target begins and ends with; its draft uses both.
TargetWeights load_ends(TensorReader& reader, const ModelSpec& spec) {
  const TargetPlan& plan = spec.target;
  TargetWeights w;
  const std::string embedding = "model.embed_tokens.weight";
  w.embedding = std::make_shared<const LinearWeights>(reader.matrix(embedding, plan.vocab, plan.hidden));
  w.head = spec.head_tensor == embedding
               ? w.embedding
               : std::make_shared<const LinearWeights>(reader.matrix(spec.head_tensor, plan.vocab, plan.hidden));
  w.final_norm = reader.vector("model.norm.weight", plan.hidden);
  return w;
}

TargetWeights load_target(const ModelSpec& spec) {
  const TargetPlan& plan = spec.target;
  TensorReader reader(spec.tensors, "");
  TargetWeights w = load_ends(reader, spec);
  for (size_t l = 0; l < plan.layers.size(); ++l)
    w.layers.push_back(load_layer(reader, "model.layers." + std::to_string(l), plan, plan.layers[l]));
  plan.networks.weights(w);
  return w;
}

DraftWeights load_draft(const ModelSpec& spec) {
  const DraftPlan& plan = spec.draft;
  const size_t hidden = spec.target.hidden;
  TensorReader reader(spec.draft_tensors, "dflash: ");
  DraftWeights w;
  w.fc = reader.linear("fc", hidden, plan.target_layer_ids.size() * hidden);
  w.hidden_norm = reader.vector("hidden_norm.weight", hidden);
  w.final_norm = reader.vector("norm.weight", hidden);
  w.mask_embedding = spec.mask_embedding;
  for (size_t l = 0; l < plan.layers; ++l) {
    const std::string base = "layers." + std::to_string(l);
    DraftLayerWeights layer;
    layer.input_norm = reader.vector(base + ".input_layernorm.weight", hidden);
    layer.post_attention_norm = reader.vector(base + ".post_attention_layernorm.weight", hidden);
    layer.attention = load_attention(reader, base + ".self_attn", plan.attention, hidden, plan.networks);
    layer.attention.q_norm = reader.vector(base + ".self_attn.q_norm.weight", plan.attention.head_dim);
    layer.attention.k_norm = reader.vector(base + ".self_attn.k_norm.weight", plan.attention.head_dim);
    layer.ffn = load_ffn(reader, base + ".mlp", hidden, plan.ffn_width);
    w.layers.push_back(std::move(layer));
  }
  return w;
}

const Ops& choose_ops(const std::string& instruction_set) {
  size_t count = 0;
  const Ops* const* tables = available_ops(&count);
  if (count == 0) throw EnvironmentFault("this processor lacks AVX2 and FMA, which the CPU engine needs on x86-64");
  if (instruction_set.empty()) return *tables[0];
  for (size_t i = 0; i < count; ++i)
    if (instruction_set == tables[i]->instruction_set) return *tables[i];
  throw EnvironmentFault("this processor cannot run the instruction set " + instruction_set);
}

}  // namespace

void check_spec(const ModelSpec& spec) {
  check_target(spec.target);
  if (spec.has_draft) check_draft(spec);
}

std::shared_ptr<const DraftModel> load_draft_alone(const ModelSpec& spec) {
  const Ops& ops = choose_ops(spec.instruction_set);
  check_spec(spec);
  TensorReader reader(spec.tensors, "");
  TargetPlan ends = spec.target;
  ends.layers.clear();
  const Target target(ops, spec.activations, ends, load_ends(reader, spec), {});
  return std::make_shared<const Draft>(ops, spec.activations, spec.draft, load_draft(spec), target);
}

std::shared_ptr<const Model> Model::load(const ModelSpec& spec) {
  const Ops& ops = choose_ops(spec.instruction_set);
  check_spec(spec);
  const Networks& networks = spec.target.networks;
  auto target = std::make_shared<const Target>(networks.ops(ops), spec.activations, spec.target, load_target(spec),
                                               spec.has_draft ? spec.draft.target_layer_ids : std::vector<size_t>{});
  std::shared_ptr<const Draft> draft;
  if (spec.has_draft) draft = std::make_shared<const Draft>(ops, spec.activations, spec.draft, load_draft(spec), *target);
  return std::make_shared<const Model>(std::move(target), std::move(draft));
}

}  // namespace kilotoken
