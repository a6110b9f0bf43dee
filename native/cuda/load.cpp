#include "load.h"

#include <utility>

#include "native/engine/fault.h"
#include "native/engine/tensors.h"
#include "reference/fp8/device.h"
#include "reference/fp8/synthetic.h"
#include "reference/fp8/target.h"
#include "reference/fp8/weights.h"

namespace kilotoken {

namespace {

fp8::Format format_of(StoredLinear::Format format) {
  switch (format) {
    case StoredLinear::Format::kFp8: return fp8::Format::kFp8;
    case StoredLinear::Format::kMxfp4: return fp8::Format::kMxfp4;
    case StoredLinear::Format::kBf16: return fp8::Format::kBf16;
    case StoredLinear::Format::kF32: return fp8::Format::kF32;
  }
  return fp8::Format::kF32;
}

void put(const std::vector<uint8_t>& bytes, const fp8::Memory& to, size_t offset) {
  if (bytes.empty()) return;
  fp8::check(cudaMemcpy(to.as<uint8_t>() + offset, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "copying weights to the GPU");
}

fp8::Linear upload(const StoredLinear& stored, size_t rows, size_t cols, size_t groups = 1) {
  fp8::Linear w = fp8::Linear::make(format_of(stored.format), 1, rows, cols, groups);
  put(stored.codes, w.codes, 0);
  put(stored.scales, w.scales, 0);
  return w;
}

// One projection of every expert of a layer as a stack.
fp8::Linear upload_stack(TensorReader& reader, const std::string& base, const std::string& projection, size_t experts, size_t rows, size_t cols) {
  fp8::Linear w;
  for (size_t e = 0; e < experts; ++e) {
    const std::string name = base + std::to_string(e) + projection;
    const StoredLinear stored = reader.stored_linear(name, rows, cols);
    if (e == 0) w = fp8::Linear::make(format_of(stored.format), experts, rows, cols);
    if (format_of(stored.format) != w.format) throw InputFault("tensor " + name + ".weight is stored unlike the experts before it");
    put(stored.codes, w.codes, e * w.codes_bytes());
    put(stored.scales, w.scales, e * w.scales_bytes());
  }
  return w;
}

class Uploader {
 public:
  explicit Uploader(const ModelSpec& spec) : spec_(spec), reader_(spec.tensors, "") {}

  fp8::Weights weights() {
    const TargetPlan& plan = spec_.target;
    const std::string embedding = "model.embed_tokens.weight";
    fp8::Weights w;
    w.embedding = upload(reader_.stored_matrix(embedding, plan.vocab, plan.hidden), plan.vocab, plan.hidden);
    w.tied = spec_.head_tensor == embedding;
    if (!w.tied) w.head = upload(reader_.stored_matrix(spec_.head_tensor, plan.vocab, plan.hidden), plan.vocab, plan.hidden);
    w.final_norm = vector("model.norm.weight", plan.hidden);
    for (size_t l = 0; l < plan.layers.size(); ++l) w.layers.push_back(layer("model.layers." + std::to_string(l), plan.layers[l]));
    return w;
  }

 private:
  fp8::Array<float> vector(const std::string& name, size_t size) { return fp8::Array<float>(reader_.vector(name, size)); }
  fp8::Linear linear(const std::string& name, size_t rows, size_t cols, size_t groups = 1) {
    return upload(reader_.stored_linear(name, rows, cols, groups), rows, cols, groups);
  }

  fp8::Layer layer(const std::string& base, const LayerPlan& plan) {
    const TargetPlan& target = spec_.target;
    const size_t hidden = target.hidden, width = plan.ffn_width;
    fp8::Layer w;
    w.input_norm = vector(base + ".input_layernorm.weight", hidden);
    w.post_attention_norm = vector(base + ".post_attention_layernorm.weight", hidden);
    w.attention = attention(base + ".self_attn", plan.attention);
    if (plan.mixture) {
      w.router = upload(reader_.stored_matrix(base + ".mlp.gate.weight", target.experts, hidden), target.experts, hidden);
      w.correction_bias = vector(base + ".mlp.gate.e_score_correction_bias", target.experts);
      const std::string experts = base + ".mlp.experts.";
      w.ffn.gate = upload_stack(reader_, experts, ".gate_proj", target.experts, width, hidden);
      w.ffn.up = upload_stack(reader_, experts, ".up_proj", target.experts, width, hidden);
      w.ffn.down = upload_stack(reader_, experts, ".down_proj", target.experts, hidden, width);
    } else {
      w.ffn.gate = linear(base + ".mlp.gate_proj", width, hidden);
      w.ffn.up = linear(base + ".mlp.up_proj", width, hidden);
      w.ffn.down = linear(base + ".mlp.down_proj", hidden, width);
    }
    return w;
  }

  fp8::Attention attention(const std::string& base, const AttentionPlan& plan) {
    const size_t hidden = spec_.target.hidden;
    const size_t q_rows = plan.q_heads * plan.head_dim, k_rows = plan.kv_heads * plan.head_dim, v_rows = plan.kv_heads * plan.v_head_dim;
    fp8::Attention w;
    if (plan.fused_groups > 0) {
      w.qkv = linear(base + ".qkv_proj", q_rows + k_rows + v_rows, hidden, plan.fused_groups);
    } else {
      w.q = linear(base + ".q_proj", q_rows, hidden);
      w.k = linear(base + ".k_proj", k_rows, hidden);
      w.v = linear(base + ".v_proj", v_rows, hidden);
    }
    w.o = linear(base + ".o_proj", hidden, plan.q_heads * plan.v_head_dim);
    w.has_sinks = plan.sink;
    if (plan.sink) w.sinks = vector(base + ".attention_sink_bias", plan.q_heads);
    return w;
  }

  const ModelSpec& spec_;
  TensorReader reader_;
};

void check_limits(const TargetPlan& plan) {
  if (plan.experts_per_token > fp8::kMostExpertsPerToken)
    throw InputFault("checkpoint: more than " + std::to_string(fp8::kMostExpertsPerToken) + " experts a token");
}

}  // namespace

GpuReport inspect_gpu() {
  const fp8::DeviceReport from = fp8::inspect_device();
  return {from.lack, from.name, from.major, from.minor, from.driver_version, from.runtime_version, from.memory, from.free_memory};
}

std::shared_ptr<const Model> load_reference_cuda(const ModelSpec& spec) {
  check_spec(spec);
  check_limits(spec.target);
  fp8::require_device();
  auto target = std::make_shared<const fp8::Target>(spec.activations, spec.target, Uploader(spec).weights(),
                                                    spec.has_draft ? spec.draft.target_layer_ids : std::vector<size_t>{});
  return std::make_shared<const Model>(std::move(target), spec.has_draft ? load_draft_alone(spec) : nullptr);
}

std::shared_ptr<const Model> load_reference_cuda(const SyntheticSpec& spec) {
  if (const char* misfit = synthetic_misfit(spec.shape, spec.shard)) throw InputFault(std::string("pro-synthetic: ") + misfit);
  const TargetPlan plan = fp8::synthetic_plan(spec.shape, spec.shard, spec.max_context);
  ModelSpec bounds;
  bounds.target = plan;
  check_spec(bounds);
  check_limits(plan);
  fp8::require_device();
  auto target = std::make_shared<const fp8::Target>(spec.activations, plan, fp8::synthetic_weights(spec.seed, spec.shape, spec.shard),
                                                    std::vector<size_t>{});
  return std::make_shared<const Model>(std::move(target), nullptr);
}

}  // namespace kilotoken
