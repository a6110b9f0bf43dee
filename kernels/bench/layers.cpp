#include "layers.h"

#include <algorithm>
#include <memory>

#include "core/synthetic.h"
#include "json.h"
#include "kernels/stack.h"
#include "kernels/synthetic/source.h"

namespace kilotoken::bench {

namespace {

using namespace stack;

constexpr uint64_t kSeed = 1;
constexpr SyntheticShard kShard{0, 8};
constexpr int kPrompt = 24, kTokens = 96, kContext = 256;
constexpr size_t kWarmRounds = 8;

struct Rounds {
  std::vector<int32_t> tokens;
  std::vector<double> verify_us;
  std::vector<double> experts;  // mean of the mixture layers from kFewLayers on
};

// An untrained draft proposes one token for all its rows, and rows of one token choose the same experts. So the rows behind the anchor get tokens that mean nothing, another
// one at every position, after the draft has run in full; hardly any is accepted.
Rounds decode(Stack& stack, int vocab, int block_size) {
  Request request;
  for (int i = 0; i < kPrompt; ++i) request.prompt.push_back(i * 7919 % vocab);
  for (int i = 0; i < kPrompt + kTokens + kRows; ++i) request.proposals.push_back((i * 7919 + 4001) % vocab);
  request.max_tokens = kTokens;
  request.block_size = block_size;
  const auto session = stack.open(request);
  Rounds out;
  size_t seen = 0;
  while (!session->finished()) {
    for (const StackRound& round : session->run(64, Mode::kResident)) {
      out.tokens.insert(out.tokens.end(), round.committed.begin(), round.committed.end());
      if (round.prefill || seen++ < kWarmRounds || out.tokens.size() + static_cast<size_t>(block_size) > kTokens) continue;  // the last may be shorter
      out.verify_us.push_back(static_cast<double>(round.verify_ns) / 1e3);
      double sum = 0;
      size_t layers = 0;
      for (size_t l = kFewLayers - 1; l < round.distinct_experts.size(); ++l, ++layers) sum += round.distinct_experts[l];  // layer 0 is no mixture
      out.experts.push_back(layers == 0 ? 0 : sum / static_cast<double>(layers));
    }
  }
  return out;
}

}  // namespace

Layers measure_layers(int device) {
  Layers out;
  for (const int rows : {1, 2, 4, 8}) {
    LayerTimes times;
    times.rows = rows;
    times.context = kPrompt + kTokens;
    out.times.push_back(times);
  }
  for (const int layers : {kFewLayers, kManyLayers}) {
    SyntheticShape shape;
    shape.layers = static_cast<uint32_t>(layers);
    const SyntheticShape part = synthetic_shard_shape(shape, kShard);
    const auto source = synthetic_source(kSeed, shape, kShard);
    const TargetShape target = synthetic_target(shape, kShard, kContext);
    const DraftShape draft = synthetic_draft(shape, kShard);
    const auto stack = Stack::make(device, target, &draft, *source);
    std::vector<int32_t> plain;
    for (LayerTimes& times : out.times) {
      Rounds rounds = decode(*stack, target.vocab, times.rows);
      if (times.rows == 1) plain = rounds.tokens;
      else if (rounds.tokens != plain) throw KernelFault("rounds of " + std::to_string(times.rows) + " rows commit other tokens than plain decoding", 0);
      if (layers == kFewLayers) {
        times.few_us = std::move(rounds.verify_us);
      } else {
        times.many_us = std::move(rounds.verify_us);
        times.experts = std::move(rounds.experts);
      }
    }
    const auto e4m3 = [](uint64_t rows, uint64_t k, uint64_t scale_rows) { return rows * k + scale_rows * ((k + 127) / 128) * 4; };
    const uint64_t group = part.q_heads / part.kv_heads * part.head_dim + part.head_dim + part.v_head_dim;
    const uint64_t o_inputs = static_cast<uint64_t>(part.q_heads) * part.v_head_dim;
    out.linear_bytes = e4m3(group * part.kv_heads, part.hidden, (group + 127) / 128 * part.kv_heads) + part.hidden * o_inputs * 2 +
                       static_cast<uint64_t>(part.experts) * part.hidden * 4;
    const uint64_t weights = uint64_t{3} * part.expert_width * part.hidden;
    out.expert_bytes = weights / 2 + weights / 32;
  }
  return out;
}

std::string layers_json(const Layers& layers) {
  Json json;
  json.begin().number("few", kFewLayers).number("many", kManyLayers).number("linearBytes", layers.linear_bytes).number("expertBytes", layers.expert_bytes);
  json.list("times");
  for (const LayerTimes& t : layers.times)
    json.begin()
        .number("m", t.rows)
        .number("context", t.context)
        .numbers("fewUs", t.few_us)
        .numbers("manyUs", t.many_us)
        .numbers("experts", t.experts)
        .end();
  return json.end_list().end().text();
}

}  // namespace kilotoken::bench
