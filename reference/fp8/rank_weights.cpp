#include "rank_weights.h"

#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "core/bf16.h"
#include "synthetic.h"
#include "synthetic_fill.h"

namespace kilotoken::fp8 {

namespace {

using P = SyntheticPart;

// How the ranks divide the key/value heads: `of` ranks of whole heads, or `share` ranks a head.
struct KvSplit {
  SyntheticShard heads;  // the rank among those that hold different heads
  uint32_t share, place;  // ranks that hold the same head, and which of them this is
};

KvSplit kv_split(const SyntheticShape& s, SyntheticShard rank) {
  if (rank.of <= s.kv_heads) return {rank, 1, 0};
  const uint32_t share = rank.of / s.kv_heads;
  return {{rank.rank / share, s.kv_heads}, share, rank.rank % share};
}

// Rows [first, first + rows) of the whole tensor, of one group.
SyntheticTensor rows_of(SyntheticTensor whole, uint32_t first, uint32_t rows) {
  whole.first_row = first;
  whole.rows = rows;
  return whole;
}

// The stretches of the fused projection that the rank holds, in order: its heads as they lie, or of one head some of Q, and K and V.
// rows_a_block: 1 for codes, 128 for their scales, whose rows restart in every group.
std::vector<SyntheticTensor> qkv_stretches(const SyntheticShape& s, SyntheticShard rank, uint32_t layer, P part) {
  const KvSplit split = kv_split(s, rank);
  if (split.share == 1) return {synthetic_tensor(s, rank, layer, part)};
  const SyntheticTensor whole = synthetic_tensor(s, {0, 1}, layer, part);
  const uint32_t unit = part == P::kQkvScale ? 128 : 1;
  const uint32_t q = s.q_heads / s.kv_heads * s.head_dim, kv = s.head_dim + s.v_head_dim, group = (q + kv + unit - 1) / unit, at = split.heads.rank * group;
  const uint32_t mine = q / split.share / unit;
  return {rows_of(whole, at + split.place * mine, mine), rows_of(whole, at + q / unit, (kv + unit - 1) / unit)};
}

// Visits every weight of a rank: either to make it or to count its bytes.
class Maker {
 public:
  Maker(uint64_t seed, const SyntheticShape& shape, SyntheticShard rank) : seed_(seed), shape_(shape), rank_(rank) {}

  Linear linear(uint32_t layer, P codes, Format format, size_t count, size_t rows, size_t cols) const {
    return linear(layer, codes, format, count, rows, cols, rank_);
  }
  Linear linear(uint32_t layer, P codes, Format format, size_t count, size_t rows, size_t cols, SyntheticShard shard) const {
    Linear w = Linear::make(format, count, rows, cols);
    fill({synthetic_tensor(shape_, shard, layer, codes)}, w.codes);
    if (w.fp8_inputs()) fill({synthetic_tensor(shape_, shard, layer, scales_of(codes))}, w.scales);
    return w;
  }
  Linear qkv(uint32_t layer, size_t groups, size_t rows, size_t cols) const {
    Linear w = Linear::make(Format::kFp8, 1, rows, cols, groups);
    fill(qkv_stretches(shape_, rank_, layer, P::kQkv), w.codes);
    fill(qkv_stretches(shape_, rank_, layer, P::kQkvScale), w.scales);
    return w;
  }
  // A vector stored as BF16 or F32, widened.
  Array<float> vector(uint32_t layer, P part, bool f32 = false) const {
    const SyntheticTensor t = synthetic_tensor(shape_, rank_, layer, part);
    std::vector<uint8_t> bytes(t.size());
    synthetic_rows(seed_, t, 0, static_cast<uint64_t>(t.groups) * t.rows, bytes.data());
    std::vector<float> values(bytes.size() / (f32 ? 4 : 2));
    if (f32) std::memcpy(values.data(), bytes.data(), bytes.size());
    else
      for (size_t i = 0; i < values.size(); ++i) values[i] = bf16_to_float(static_cast<uint16_t>(bytes[2 * i] | bytes[2 * i + 1] << 8));
    return Array<float>(values);
  }
  void wait() const { stream_.wait(); }

  static P scales_of(P codes) { return static_cast<P>(static_cast<uint32_t>(codes) + 1); }

 private:
  void fill(const std::vector<SyntheticTensor>& stretches, const Memory& to) const {
    uint64_t at = 0;
    for (const SyntheticTensor& t : stretches) {
      if (at + t.size() > to.bytes()) throw std::logic_error("a synthetic tensor and its weight differ in size");
      synthetic_fill(seed_, t, to.as<uint8_t>() + at, stream_);
      at += t.size();
    }
    if (at != to.bytes()) throw std::logic_error("a synthetic tensor and its weight differ in size");
  }

  const uint64_t seed_;
  const SyntheticShape& shape_;
  const SyntheticShard rank_;
  Stream stream_;
};

// The sizes of one rank. Fewer key/value heads than ranks: one, and a part of the query heads that share it.
SyntheticShape rank_shape(const SyntheticShape& whole, SyntheticShard rank) {
  SyntheticShape s = synthetic_shard_shape(whole, rank);
  if (kv_split(whole, rank).share > 1) s.kv_heads = 1;
  return s;
}

}  // namespace

const char* rank_misfit(const SyntheticShape& s, SyntheticShard rank) {
  if (rank.of == 0 || rank.rank >= rank.of) return "a rank outside the ranks";
  if (rank.of <= s.kv_heads) return synthetic_misfit(s, rank);
  if (const char* misfit = synthetic_misfit(s, {rank.rank % s.kv_heads, s.kv_heads})) return misfit;
  if (rank.of % s.kv_heads != 0 || s.q_heads % rank.of != 0) return "query heads that do not divide among ranks";
  if (s.q_heads / rank.of * s.head_dim % 128 != 0) return "query heads that do not divide among ranks in blocks of 128 rows";
  if (s.expert_width % (128 * rank.of) != 0 || s.dense_width % (128 * rank.of) != 0) return "a feed-forward width that does not divide among ranks in blocks of 128";
  if (s.vocab % rank.of != 0) return "a vocabulary that does not divide among ranks";
  return nullptr;
}

TargetPlan rank_plan(const SyntheticShape& shape, SyntheticShard rank, size_t max_context) {
  TargetPlan plan = synthetic_plan(shape, rank, max_context);
  const SyntheticShape s = rank_shape(shape, rank);
  for (LayerPlan& layer : plan.layers) layer.attention.kv_heads = layer.attention.fused_groups = s.kv_heads;
  return plan;
}

RankBytes rank_bytes(const SyntheticShape& shape, SyntheticShard rank) {
  RankBytes total;
  const auto count = [&](const SyntheticTensor& t, uint64_t of, uint64_t read) {
    const uint64_t size = t.size(), page = uint64_t{2} << 20;
    total.resident += size;
    total.step += size / of * read;
    total.allocated += size < page / 2 ? (size + 511) / 512 * 512 : (size + page - 1) / page * page;
  };
  const auto part = [&](uint32_t layer, P p, uint64_t of = 1, uint64_t read = 1) { count(synthetic_tensor(shape, rank, layer, p), of, read); };
  count(synthetic_tensor(shape, {0, 1}, 0, P::kEmbedding), shape.vocab, 1);
  part(0, P::kHead);
  part(0, P::kFinalNorm);
  for (uint32_t l = 0; l < shape.layers; ++l) {
    part(l, P::kInputNorm);
    part(l, P::kPostAttentionNorm);
    for (const P p : {P::kQkv, P::kQkvScale})
      for (const SyntheticTensor& t : qkv_stretches(shape, rank, l, p)) count(t, 1, 1);
    part(l, P::kO);
    if (!synthetic_global_layer(l)) part(l, P::kSinks);
    if (l == 0) {
      for (const P p : {P::kDenseGate, P::kDenseGateScale, P::kDenseUp, P::kDenseUpScale, P::kDenseDown, P::kDenseDownScale}) part(l, p);
    } else {
      part(l, P::kRouter);
      part(l, P::kCorrectionBias);
      for (const P p : {P::kGate, P::kGateScale, P::kUp, P::kUpScale, P::kDown, P::kDownScale}) part(l, p, shape.experts, shape.experts_per_token);
    }
  }
  return total;
}

Weights rank_weights(uint64_t seed, const SyntheticShape& whole, SyntheticShard rank) {
  const SyntheticShape s = rank_shape(whole, rank);
  const Maker make(seed, whole, rank);
  const Format experts = s.fp8_experts ? Format::kFp8 : Format::kMxfp4;
  const size_t qkv_rows = s.q_heads * s.head_dim + s.kv_heads * (s.head_dim + s.v_head_dim);
  Weights w;
  w.embedding = make.linear(0, P::kEmbedding, Format::kBf16, 1, whole.vocab, s.hidden, {0, 1});
  w.head = make.linear(0, P::kHead, Format::kBf16, 1, s.vocab, s.hidden);
  w.final_norm = make.vector(0, P::kFinalNorm);
  for (uint32_t l = 0; l < s.layers; ++l) {
    Layer layer;
    layer.input_norm = make.vector(l, P::kInputNorm);
    layer.post_attention_norm = make.vector(l, P::kPostAttentionNorm);
    layer.attention.qkv = make.qkv(l, s.kv_heads, qkv_rows, s.hidden);
    layer.attention.o = make.linear(l, P::kO, Format::kBf16, 1, s.hidden, s.q_heads * s.v_head_dim);
    layer.attention.has_sinks = !synthetic_global_layer(l);
    if (layer.attention.has_sinks) layer.attention.sinks = make.vector(l, P::kSinks);
    if (l > 0) {
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
