#include "source.h"

#include <stdexcept>
#include <vector>

#include "kernels/device_memory.h"

namespace kilotoken::stack {

namespace {

// One thread 16 bytes where the shard's rows are whole blocks, else one thread a word.
__global__ void fill_blocks(uint64_t seed, const __grid_constant__ SyntheticTensor t, uint4* out, size_t blocks) {
  const size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= blocks) return;
  const PhiloxWords w = synthetic_block(seed, t, t.whole_word(i * 4) / 4);
  out[i] = make_uint4(w.x[0], w.x[1], w.x[2], w.x[3]);
}
__global__ void fill_words(uint64_t seed, const __grid_constant__ SyntheticTensor t, uint32_t* out, size_t words) {
  const size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < words) out[i] = synthetic_word(seed, t, i);
}

struct Role {
  SyntheticPart codes;
  Storage storage;
  int scale_rows = 0;
};

class SyntheticSource final : public WeightSource {
 public:
  // whole_embedding: not the shard's rows of it.
  SyntheticSource(uint64_t seed, const SyntheticShape& shape, SyntheticShard shard, bool whole_embedding)
      : seed_(seed), shape_(shape), shard_(shard), whole_embedding_(whole_embedding) {}

  Matrix get(Tensor tensor, int layer) override {
    using P = SyntheticPart;
    using T = Tensor;
    const uint32_t l = static_cast<uint32_t>(layer);
    const bool dense = l == 0;
    switch (tensor) {
      case T::kEmbedding: return wide(0, P::kEmbedding);
      case T::kHead: return wide(0, P::kHead);
      case T::kFinalNorm: return wide(0, P::kFinalNorm);
      case T::kInputNorm: return wide(l, P::kInputNorm);
      case T::kPostNorm: return wide(l, P::kPostAttentionNorm);
      case T::kQkv: {
        Matrix m = scaled(l, P::kQkv, P::kQkvScale, Storage::kE4m3);
        m.scale_rows = static_cast<int>(shape_.q_heads / shape_.kv_heads * shape_.head_dim + shape_.head_dim + shape_.v_head_dim);
        return m;
      }
      case T::kO: return wide(l, P::kO);
      case T::kSinks: return wide(l, P::kSinks);
      case T::kGate: return dense ? scaled(l, P::kDenseGate, P::kDenseGateScale, Storage::kE4m3) : experts(l, P::kGate, P::kGateScale);
      case T::kUp: return dense ? scaled(l, P::kDenseUp, P::kDenseUpScale, Storage::kE4m3) : experts(l, P::kUp, P::kUpScale);
      case T::kDown: return dense ? scaled(l, P::kDenseDown, P::kDenseDownScale, Storage::kE4m3) : experts(l, P::kDown, P::kDownScale);
      case T::kRouter: return wide(l, P::kRouter, Storage::kF32);
      case T::kCorrectionBias: return wide(l, P::kCorrectionBias, Storage::kF32);
      case T::kDraftFc: return wide(0, P::kDraftFc);
      case T::kDraftHiddenNorm: return wide(0, P::kDraftHiddenNorm);
      case T::kDraftFinalNorm: return wide(0, P::kDraftFinalNorm);
      case T::kDraftMask: return wide(0, P::kDraftMaskEmbedding);
      case T::kDraftInputNorm: return wide(l, P::kDraftInputNorm);
      case T::kDraftPostNorm: return wide(l, P::kDraftPostAttentionNorm);
      case T::kDraftQ: return wide(l, P::kDraftQ);
      case T::kDraftK: return wide(l, P::kDraftK);
      case T::kDraftV: return wide(l, P::kDraftV);
      case T::kDraftO: return wide(l, P::kDraftO);
      case T::kDraftQNorm: return wide(l, P::kDraftQNorm);
      case T::kDraftKNorm: return wide(l, P::kDraftKNorm);
      case T::kDraftSinks: return wide(l, P::kDraftSinks);
      case T::kDraftGate: return wide(l, P::kDraftGate);
      case T::kDraftUp: return wide(l, P::kDraftUp);
      case T::kDraftDown: return wide(l, P::kDraftDown);
    }
    throw std::logic_error("a tensor without a formula");
  }

  void release() override { made_.clear(); }

 private:
  SyntheticTensor tensor(uint32_t layer, SyntheticPart part) const {
    return synthetic_tensor(shape_, part == SyntheticPart::kEmbedding && whole_embedding_ ? SyntheticShard{} : shard_, layer, part);
  }

  const void* make(const SyntheticTensor& t) {
    made_.emplace_back(static_cast<size_t>(t.size()));
    uint8_t* out = made_.back().get();
    constexpr int kBlock = 256;
    if (t.blockwise()) {
      const size_t blocks = t.size() / 16;
      fill_blocks<<<static_cast<unsigned>((blocks + kBlock - 1) / kBlock), kBlock>>>(seed_, t, reinterpret_cast<uint4*>(out), blocks);
    } else {
      const size_t words = t.size() / 4;
      fill_words<<<static_cast<unsigned>((words + kBlock - 1) / kBlock), kBlock>>>(seed_, t, reinterpret_cast<uint32_t*>(out), words);
    }
    check(cudaGetLastError(), "making synthetic weights");
    return out;
  }

  Matrix wide(uint32_t layer, SyntheticPart part, Storage storage = Storage::kBf16) {
    const SyntheticTensor t = tensor(layer, part);
    return {storage, make(t), nullptr, static_cast<int>(t.rows * t.groups), static_cast<int>(t.bytes / (storage == Storage::kBf16 ? 2 : 4)), 0};
  }

  Matrix scaled(uint32_t layer, SyntheticPart codes, SyntheticPart scales, Storage storage) {
    const SyntheticTensor t = tensor(layer, codes);
    const int cols = static_cast<int>(storage == Storage::kE4m3 ? t.bytes : t.bytes * 2);
    const void* code_data = make(t);
    return {storage, code_data, make(tensor(layer, scales)), static_cast<int>(t.rows * t.groups), cols, 0};
  }

  Matrix experts(uint32_t layer, SyntheticPart codes, SyntheticPart scales) {
    Matrix m = scaled(layer, codes, scales, shape_.fp8_experts ? Storage::kE4m3 : Storage::kMxfp4);
    if (shape_.fp8_experts) m.scale_rows = m.rows / static_cast<int>(shape_.experts);
    return m;
  }

  const uint64_t seed_;
  const SyntheticShape shape_;
  const SyntheticShard shard_;
  const bool whole_embedding_;
  std::vector<Device<uint8_t>> made_;
};

}  // namespace

TargetShape synthetic_target(const SyntheticShape& whole, SyntheticShard shard, int max_context) {
  const SyntheticShape s = synthetic_shard_shape(whole, shard);
  TargetShape t;
  t.hidden = static_cast<int>(s.hidden);
  t.vocab = static_cast<int>(s.vocab);
  t.epsilon = 1e-5f;
  t.value_scale = 0.612f;
  t.experts = static_cast<int>(s.experts);
  t.experts_per_token = static_cast<int>(s.experts_per_token);
  t.max_context = max_context;
  for (uint32_t l = 0; l < s.layers; ++l) {
    const bool global = synthetic_global_layer(l);
    LayerShape layer;
    layer.attention = {static_cast<int>(s.q_heads), static_cast<int>(s.kv_heads), static_cast<int>(s.head_dim), global ? 1e7 : 1e4,
                       global ? 0 : static_cast<int>(s.window), !global};
    layer.mixture = l > 0;
    layer.ffn_width = static_cast<int>(l > 0 ? s.expert_width : s.dense_width);
    t.layers.push_back(layer);
  }
  return t;
}

DraftShape synthetic_draft(const SyntheticShape& whole, SyntheticShard shard) {
  const SyntheticShape s = synthetic_shard_shape(whole, shard);
  DraftShape d;
  d.layers = static_cast<int>(s.draft_layers);
  d.attention = {static_cast<int>(s.q_heads), static_cast<int>(s.kv_heads), static_cast<int>(s.draft_head_dim), 1e4, 1024, true};
  d.epsilon = 1e-5f;
  d.value_scale = 0.612f;
  d.ffn_width = static_cast<int>(s.draft_width);
  d.block_size = kRows;
  for (uint32_t tap = 0; tap < s.draft_taps; ++tap) d.taps.push_back(static_cast<int>(synthetic_tap_layer(s.layers, tap)));
  d.mask_id = static_cast<int32_t>(s.vocab) - 1;
  return d;
}

std::unique_ptr<WeightSource> synthetic_source(uint64_t seed, const SyntheticShape& whole, SyntheticShard shard) {
  return std::make_unique<SyntheticSource>(seed, whole, shard, false);
}

TargetShape synthetic_target_part(const SyntheticShape& whole, SyntheticShard shard, int max_context) {
  TargetShape t = synthetic_target(whole, shard, max_context);
  t.vocab = static_cast<int>(whole.vocab);
  t.head_rows = static_cast<int>(whole.vocab / shard.of);
  t.head_first = t.head_rows * static_cast<int>(shard.rank);
  return t;
}

DraftShape synthetic_draft_part(const SyntheticShape& whole, SyntheticShard shard) {
  DraftShape d = synthetic_draft(whole, shard);
  d.mask_id = static_cast<int32_t>(whole.vocab) - 1;
  return d;
}

std::unique_ptr<WeightSource> synthetic_source_part(uint64_t seed, const SyntheticShape& whole, SyntheticShard shard) {
  return std::make_unique<SyntheticSource>(seed, whole, shard, true);
}

}  // namespace kilotoken::stack
