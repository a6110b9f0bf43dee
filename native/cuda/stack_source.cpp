#include "stack_source.h"

#include <string>
#include <utility>
#include <vector>

#include "kernels/device_memory.h"
#include "native/engine/fault.h"
#include "native/engine/tensors.h"

namespace kilotoken {

namespace {

stack::AttentionShape attention_shape(const AttentionPlan& plan) {
  if (plan.v_head_dim != 128 || plan.rotary_dim != 64 || (plan.head_dim != 192 && plan.head_dim != 128))
    throw InputFault("checkpoint: the stack takes heads of 192 or 128 dimensions, values of 128 and RoPE on 64; other engines take any");
  return {static_cast<int>(plan.q_heads), static_cast<int>(plan.kv_heads), static_cast<int>(plan.head_dim), plan.rope_theta,
          static_cast<int>(plan.window), plan.sink};
}

// How a layer's experts are stored: MXFP4 or FP8, all of them alike. By the names in the header alone, before a weight is read.
stack::Storage experts_of_layer(const ModelSpec& spec, size_t layer) {
  const std::string base = "model.layers." + std::to_string(layer) + ".mlp.experts.";
  std::string first;
  for (size_t e = 0; e < spec.target.experts; ++e) {
    for (const char* projection : {".gate_proj", ".up_proj", ".down_proj"}) {
      const std::string name = base + std::to_string(e) + projection + ".weight";
      const auto found = spec.tensors.find(name);
      if (found == spec.tensors.end()) throw InputFault("tensor " + name + " is missing");
      const std::string& dtype = found->second.dtype;
      if (dtype != "U8" && dtype != "F8_E4M3") throw InputFault("tensor " + name + " is " + dtype + ", and the stack holds experts as MXFP4 or FP8 only");
      if (first.empty()) first = dtype;
      if (dtype != first)
        throw InputFault("tensor " + name + " is " + dtype + " and others of its layer " + first + "; the stack holds a layer's experts in one format");
    }
  }
  return first == "U8" ? stack::Storage::kMxfp4 : stack::Storage::kE4m3;
}

class CheckpointSource final : public stack::WeightSource {
 public:
  explicit CheckpointSource(const ModelSpec& spec) : spec_(spec), target_(spec.tensors, ""), draft_(spec.draft_tensors, "dflash: ") {
    for (size_t l = 0; l < spec.target.layers.size(); ++l)
      experts_.push_back(spec.target.layers[l].mixture ? experts_of_layer(spec, l) : stack::Storage::kF32);
  }

  stack::Matrix get(stack::Tensor tensor, int index) override {
    using T = stack::Tensor;
    const TargetPlan& plan = spec_.target;
    const size_t hidden = plan.hidden;
    const std::string layer = "model.layers." + std::to_string(index), draft_layer = "layers." + std::to_string(index);
    const auto attention = [&]() -> const AttentionPlan& { return plan.layers[static_cast<size_t>(index)].attention; };
    const AttentionPlan& own = spec_.draft.attention;
    switch (tensor) {
      case T::kEmbedding: return matrix(target_, "model.embed_tokens.weight", plan.vocab, hidden);
      case T::kHead: return matrix(target_, spec_.head_tensor, plan.vocab, hidden);
      case T::kFinalNorm: return vector(target_, "model.norm.weight", hidden);
      case T::kInputNorm: return vector(target_, layer + ".input_layernorm.weight", hidden);
      case T::kPostNorm: return vector(target_, layer + ".post_attention_layernorm.weight", hidden);
      case T::kSinks: return vector(target_, layer + ".self_attn.attention_sink_bias", attention().q_heads);
      case T::kO: return linear(target_, layer + ".self_attn.o_proj", hidden, attention().q_heads * attention().v_head_dim);
      case T::kQkv: {
        const AttentionPlan& a = attention();
        if (a.fused_groups != a.kv_heads) throw InputFault("checkpoint: the stack takes fused projections with a group for each key/value head");
        const size_t rows = a.q_heads * a.head_dim + a.kv_heads * (a.head_dim + a.v_head_dim);
        stack::Matrix m = linear(target_, layer + ".self_attn.qkv_proj", rows, hidden, a.fused_groups);
        m.scale_rows = static_cast<int>(rows / a.fused_groups);
        return m;
      }
      case T::kGate: return feed_forward(index, ".gate_proj", false);
      case T::kUp: return feed_forward(index, ".up_proj", false);
      case T::kDown: return feed_forward(index, ".down_proj", true);
      case T::kRouter: return matrix(target_, layer + ".mlp.gate.weight", plan.experts, hidden);
      case T::kCorrectionBias: return vector(target_, layer + ".mlp.gate.e_score_correction_bias", plan.experts);
      case T::kDraftFc: return linear(draft_, "fc", hidden, hidden * spec_.draft.target_layer_ids.size());
      case T::kDraftHiddenNorm: return vector(draft_, "hidden_norm.weight", hidden);
      case T::kDraftFinalNorm: return vector(draft_, "norm.weight", hidden);
      case T::kDraftMask: return upload(stack::Storage::kF32, bytes_of(spec_.mask_embedding), {}, 1, hidden);
      case T::kDraftInputNorm: return vector(draft_, draft_layer + ".input_layernorm.weight", hidden);
      case T::kDraftPostNorm: return vector(draft_, draft_layer + ".post_attention_layernorm.weight", hidden);
      case T::kDraftQ: return linear(draft_, draft_layer + ".self_attn.q_proj", own.q_heads * own.head_dim, hidden);
      case T::kDraftK: return linear(draft_, draft_layer + ".self_attn.k_proj", own.kv_heads * own.head_dim, hidden);
      case T::kDraftV: return linear(draft_, draft_layer + ".self_attn.v_proj", own.kv_heads * own.v_head_dim, hidden);
      case T::kDraftO: return linear(draft_, draft_layer + ".self_attn.o_proj", hidden, own.q_heads * own.v_head_dim);
      case T::kDraftQNorm: return vector(draft_, draft_layer + ".self_attn.q_norm.weight", own.head_dim);
      case T::kDraftKNorm: return vector(draft_, draft_layer + ".self_attn.k_norm.weight", own.head_dim);
      case T::kDraftSinks: return vector(draft_, draft_layer + ".self_attn.attention_sink_bias", own.q_heads);
      case T::kDraftGate: return linear(draft_, draft_layer + ".mlp.gate_proj", spec_.draft.ffn_width, hidden);
      case T::kDraftUp: return linear(draft_, draft_layer + ".mlp.up_proj", spec_.draft.ffn_width, hidden);
      case T::kDraftDown: return linear(draft_, draft_layer + ".mlp.down_proj", hidden, spec_.draft.ffn_width);
    }
    throw InputFault("checkpoint: a tensor the stack does not know");
  }

  void release() override { held_.clear(); }

 private:
  template <class T>
  static std::vector<uint8_t> bytes_of(const std::vector<T>& values) {
    const auto* first = reinterpret_cast<const uint8_t*>(values.data());
    return {first, first + values.size() * sizeof(T)};
  }

  const void* hold(const std::vector<uint8_t>& bytes) {
    held_.emplace_back(bytes);
    return held_.back().get();
  }

  stack::Matrix upload(stack::Storage storage, const std::vector<uint8_t>& codes, const std::vector<uint8_t>& scales, size_t rows, size_t cols) {
    const void* on_device = hold(codes);
    return {storage, on_device, scales.empty() ? nullptr : hold(scales), static_cast<int>(rows), static_cast<int>(cols), 0};
  }

  static stack::Storage storage_of(StoredLinear::Format format) {
    switch (format) {
      case StoredLinear::Format::kFp8: return stack::Storage::kE4m3;
      case StoredLinear::Format::kMxfp4: return stack::Storage::kMxfp4;
      case StoredLinear::Format::kBf16: return stack::Storage::kBf16;
      case StoredLinear::Format::kF32: return stack::Storage::kF32;
    }
    return stack::Storage::kF32;
  }

  stack::Matrix linear(TensorReader& reader, const std::string& name, size_t rows, size_t cols, size_t groups = 1) {
    const StoredLinear stored = reader.stored_linear(name, rows, cols, groups);
    return upload(storage_of(stored.format), stored.codes, stored.scales, rows, cols);
  }
  stack::Matrix matrix(TensorReader& reader, const std::string& name, size_t rows, size_t cols) {
    const StoredLinear stored = reader.stored_matrix(name, rows, cols);
    return upload(storage_of(stored.format), stored.codes, stored.scales, rows, cols);
  }
  stack::Matrix vector(TensorReader& reader, const std::string& name, size_t size) {
    return upload(stack::Storage::kF32, bytes_of(reader.vector(name, size)), {}, 1, size);
  }

  // A dense layer's projection, or those of all experts, rows on rows.
  stack::Matrix feed_forward(int index, const std::string& projection, bool down) {
    const TargetPlan& plan = spec_.target;
    const LayerPlan& layer = plan.layers[static_cast<size_t>(index)];
    const size_t rows = down ? plan.hidden : layer.ffn_width, cols = down ? layer.ffn_width : plan.hidden;
    const std::string base = "model.layers." + std::to_string(index) + ".mlp";
    if (!layer.mixture) return linear(target_, base + projection, rows, cols);
    // Each expert's scales begin anew: of FP8 those of its own blocks of 128 x 128, the last of which may be cut short both ways.
    std::vector<uint8_t> codes, scales;
    for (size_t e = 0; e < plan.experts; ++e) {
      const StoredLinear stored = target_.stored_linear(base + ".experts." + std::to_string(e) + projection, rows, cols);
      codes.insert(codes.end(), stored.codes.begin(), stored.codes.end());
      scales.insert(scales.end(), stored.scales.begin(), stored.scales.end());
    }
    const stack::Storage storage = experts_[static_cast<size_t>(index)];
    stack::Matrix m = upload(storage, codes, scales, rows * plan.experts, cols);
    if (storage == stack::Storage::kE4m3) m.scale_rows = static_cast<int>(rows);
    return m;
  }

  const ModelSpec& spec_;
  TensorReader target_, draft_;
  std::vector<stack::Storage> experts_;  // by layer; of dense ones nothing
  std::vector<stack::Device<uint8_t>> held_;
};

}  // namespace

stack::TargetShape stack_target(const TargetPlan& plan) {
  stack::TargetShape shape;
  shape.hidden = static_cast<int>(plan.hidden);
  shape.vocab = static_cast<int>(plan.vocab);
  shape.epsilon = plan.epsilon;
  shape.value_scale = plan.value_scale;
  shape.experts = static_cast<int>(plan.experts);
  shape.experts_per_token = static_cast<int>(plan.experts_per_token);
  shape.normalise_expert_weights = plan.normalise_expert_weights;
  shape.routed_scale = plan.routed_scale;
  shape.max_context = static_cast<int>(plan.max_context);
  for (const LayerPlan& layer : plan.layers)
    shape.layers.push_back({attention_shape(layer.attention), layer.mixture, static_cast<int>(layer.ffn_width)});
  return shape;
}

stack::DraftShape stack_draft(const DraftPlan& plan) {
  stack::DraftShape shape;
  shape.layers = static_cast<int>(plan.layers);
  shape.attention = attention_shape(plan.attention);
  shape.epsilon = plan.epsilon;
  shape.value_scale = plan.value_scale;
  shape.ffn_width = static_cast<int>(plan.ffn_width);
  shape.block_size = static_cast<int>(plan.block_size);
  for (const size_t id : plan.target_layer_ids) shape.taps.push_back(static_cast<int>(id));
  shape.mask_id = plan.mask_token_id;
  return shape;
}

std::unique_ptr<stack::WeightSource> checkpoint_source(const ModelSpec& spec) { return std::make_unique<CheckpointSource>(spec); }

}  // namespace kilotoken
