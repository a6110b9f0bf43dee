#include "decode_rank.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "attention.cuh"
#include "elementwise.cuh"
#include "embedding.cuh"
#include "linear.cuh"
#include "quantise_activation.cuh"
#include "rank_weights.h"
#include "reference/cpu/rope.h"
#include "rmsnorm.cuh"
#include "rope_cache.cuh"
#include "router.cuh"
#include "standard_attention.cuh"
#include "standard_linear.cuh"
#include "standard_ops.cuh"

namespace kilotoken::fp8 {

namespace {

constexpr uint32_t kBlocksForKeys = 528;  // four an SM, over all key/value heads
constexpr uint32_t kWindowSplits = 8;
constexpr int32_t kNoToken = -1;
constexpr uint32_t kLooksAQuery = 1u << 14;

size_t element_bytes(Activations activations) { return activations == Activations::kFp8 ? sizeof(uint16_t) : sizeof(float); }

HeadLayout head_layout(const AttentionPlan& plan) {
  return {static_cast<uint32_t>(std::max<size_t>(1, plan.fused_groups)), static_cast<uint32_t>(plan.q_heads), static_cast<uint32_t>(plan.kv_heads),
          static_cast<uint32_t>(plan.head_dim), static_cast<uint32_t>(plan.v_head_dim)};
}

uint32_t splits_of(const AttentionPlan& plan) {
  const uint32_t even = std::max<uint32_t>(1, kBlocksForKeys / static_cast<uint32_t>(plan.kv_heads));
  return plan.window == 0 ? even : std::min(kWindowSplits, even);
}

// Holds the stream up until the host has queued what is to be timed.
__global__ void hold_kernel(long long nanoseconds) {
  long long start, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
  do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  while (now - start < nanoseconds);
}

struct LayerCache {
  Memory keys, values;  // [max_context][kv_heads][head_dim], [max_context][kv_heads][v_head_dim]
};

// A row as it is, and as linears with FP8 or MXFP4 weights see it: ordered, code * scale; standard, codes and scales.
struct Input {
  const float* plain = nullptr;
  const float* rounded = nullptr;
  const uint8_t* codes = nullptr;
  const float* scales = nullptr;
};

}  // namespace

RopeTables rope_tables(const TargetPlan& plan, size_t max_context) {
  RopeTables tables;
  tables.half = plan.layers.front().attention.rotary_dim / 2;
  for (const LayerPlan& layer : plan.layers)
    if (std::find(tables.thetas.begin(), tables.thetas.end(), layer.attention.rope_theta) == tables.thetas.end())
      tables.thetas.push_back(layer.attention.rope_theta);
  std::vector<RopeRow> row;
  for (const double theta : tables.thetas) {
    const Rope rope(theta, 2 * tables.half);
    for (size_t position = 0; position < max_context; ++position) {
      rope.turns(position, 1, row);
      tables.cosine.insert(tables.cosine.end(), row[0].cosine.begin(), row[0].cosine.end());
      tables.sine.insert(tables.sine.end(), row[0].sine.begin(), row[0].sine.end());
    }
  }
  return tables;
}

uint64_t decode_bytes(const SyntheticShape& shape, SyntheticShard rank, const DecodeOptions& options) {
  const TargetPlan plan = rank_plan(shape, rank, options.max_context);
  uint64_t bytes = 2 * 2 * options.max_context * shape.rotary_dim / 2 * sizeof(float);
  for (const LayerPlan& layer : plan.layers)
    bytes += options.max_context * layer.attention.kv_heads * (layer.attention.head_dim + layer.attention.v_head_dim) * element_bytes(options.activations);
  const AttentionPlan& attention = plan.layers.front().attention;
  bytes += attention.q_heads * sizeof(float) * (splits_of(attention) * (attention.v_head_dim + 2) + options.max_context);
  return bytes + (uint64_t{64} << 20);  // rows, parts of ranks, logits
}

const char* decode_misfit(const TargetPlan& plan, const DecodeOptions& options) {
  if (plan.experts_per_token > kMostExpertsPerToken) return "more experts a token than the router kernel takes";
  if (options.build == Build::kStandard && (plan.experts > 32 * kCandidates || plan.experts_per_token > 32 || plan.hidden > kNormThreads * kNormHeld))
    return "more experts than 512, more of them a token than 32, or a hidden width above 8192";
  for (const LayerPlan& layer : plan.layers)
    if (options.build == Build::kStandard && !standard_attention_fits(head_layout(layer.attention)))
      return "heads of other sizes than 192 and 128, or not 8 or 16 of them to a key/value head";
  return nullptr;
}

struct DecodeRank::State {
  const TargetPlan plan;
  const DecodeOptions options;
  const SyntheticShard rank;
  const size_t first_kv_head, vocab;  // the rank's first key/value head; vocab: of the whole model
  const Weights weights;
  Collectives* const others;
  const std::vector<double> thetas;
  const size_t half;
  Array<float> cosine, sine;
  Stream stream;
  std::vector<LayerCache> cache;
  size_t position = 0;
  bool collective = true;  // false while kernels are loaded

  int32_t* chosen_token = nullptr;  // page-locked, on the host
  Array<int32_t> id, experts;
  Array<uint32_t> place;  // the position, on the device
  Array<uint8_t> touched, codes;
  Array<Best> bests;
  Array<float> hidden, normed, rounded, scales, branch, parts_of_ranks, qkv, heads_out, scores, denominators, parts, tops, masses, router, expert_weights, gate, up,
      expert_out, logits_part, logits;

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t graph_step = nullptr;

  uint32_t looks = 0;
  size_t queued = 0;  // by the step that was queued last
  std::vector<std::pair<const char*, cudaEvent_t>>* marks = nullptr;

  State(const SyntheticShape& shape, SyntheticShard shard, uint64_t seed, const DecodeOptions& given, const RopeTables& ropes, Collectives* group)
      : plan(rank_plan(shape, shard, given.max_context)),
        options(given),
        rank(shard),
        first_kv_head(static_cast<size_t>(shard.rank) * shape.kv_heads / shard.of),
        vocab(shape.vocab),
        weights(rank_weights(seed, shape, shard)),
        others(group),
        thetas(ropes.thetas),
        half(ropes.half),
        cosine(ropes.cosine),
        sine(ropes.sine),
        cache(plan.layers.size()) {
    if (const char* misfit = decode_misfit(plan, options)) throw std::logic_error(misfit);
    const size_t element = element_bytes(options.activations), k = plan.experts_per_token, hidden_size = plan.hidden;
    size_t qkv_width = 0, out_cols = 0, width = 0, split_places = 0, heads = 0;
    for (size_t l = 0; l < plan.layers.size(); ++l) {
      const LayerPlan& layer = plan.layers[l];
      const AttentionPlan& a = layer.attention;
      cache[l].keys.grow(options.max_context * a.kv_heads * a.head_dim * element);
      cache[l].values.grow(options.max_context * a.kv_heads * a.v_head_dim * element);
      // What was not written yet is NaN in every format, so that a read beyond the valid length shows.
      check(cudaMemsetAsync(cache[l].keys.data(), 0xff, cache[l].keys.bytes(), stream), "clearing the cache");
      check(cudaMemsetAsync(cache[l].values.data(), 0xff, cache[l].values.bytes(), stream), "clearing the cache");
      qkv_width = std::max<size_t>(qkv_width, head_layout(a).row_width());
      out_cols = std::max(out_cols, a.q_heads * a.v_head_dim);
      width = std::max(width, layer.mixture ? k * layer.ffn_width : layer.ffn_width);
      split_places = std::max<size_t>(split_places, a.q_heads * splits_of(a));
      heads = std::max(heads, a.q_heads);
    }
    const size_t widest = std::max({hidden_size, out_cols, width});
    check(cudaMallocHost(reinterpret_cast<void**>(&chosen_token), sizeof(int32_t)), "making a rank");
    *chosen_token = 0;
    id.grow(1);
    place.grow(1);
    experts.grow(mixtures() * k + 1);
    touched.grow(plan.experts);
    codes.grow(widest);
    hidden.grow(hidden_size);
    normed.grow(hidden_size);
    rounded.grow(widest);
    scales.grow(widest / 128);
    branch.grow(hidden_size);
    parts_of_ranks.grow(rank.of * hidden_size);
    qkv.grow(qkv_width);
    heads_out.grow(out_cols);
    if (options.build == Build::kOrdered) scores.grow(heads * options.max_context), denominators.grow(heads);
    parts.grow(split_places * kStandardValueDim);
    tops.grow(split_places);
    masses.grow(split_places);
    router.grow(plan.experts);
    expert_weights.grow(k);
    gate.grow(width);
    up.grow(width);
    expert_out.grow(k * hidden_size);
    logits_part.grow(plan.vocab);
    logits.grow(vocab);
    bests.grow(token_blocks(vocab));
    check(cudaMemsetAsync(id.data(), 0, sizeof(int32_t), stream), "clearing");
    check(cudaMemsetAsync(place.data(), 0, sizeof(uint32_t), stream), "clearing");
    check(cudaDeviceSynchronize(), "making a rank");
  }

  ~State() {
    if (device_lost()) return;
    if (chosen_token != nullptr) cudaFreeHost(chosen_token);
    if (graph_step != nullptr) cudaGraphExecDestroy(graph_step);
    if (graph != nullptr) cudaGraphDestroy(graph);
  }

  size_t mixtures() const {
    return static_cast<size_t>(std::count_if(plan.layers.begin(), plan.layers.end(), [](const LayerPlan& layer) { return layer.mixture; }));
  }
  bool standard() const { return options.build == Build::kStandard; }

  // Behind every launch: counts it and, while a step is looked at, notes the time.
  void mark(const char* what, size_t launches = 1) {
    queued += launches;
    if (marks == nullptr) return;
    cudaEvent_t event = nullptr;
    check(cudaEventCreate(&event), "making an event");
    check(cudaEventRecord(event, stream), "recording an event");
    marks->emplace_back(what, event);
  }

  // ---- ops ----

  void norm(const Array<float>& weight) {
    if (standard()) standard_rmsnorm(hidden.data(), weight.data(), plan.hidden, plan.epsilon, normed.data(), stream);
    else rmsnorm(hidden.data(), weight.data(), 1, plan.hidden, plan.epsilon, normed.data(), stream);
    mark("norm");
  }

  // rows of cols each; quantised only if `w`, which reads them, has FP8 or MXFP4 weights.
  Input input(const Linear& w, const float* x, size_t rows, size_t cols) {
    if (!w.fp8_inputs() || options.activations != Activations::kFp8) return {x, x, nullptr, nullptr};
    if (standard()) standard_quantise(x, rows * cols, codes.data(), scales.data(), stream);
    else quantise_activation(x, rows, cols, rounded.data(), stream);
    mark("quantise");
    return standard() ? Input{x, nullptr, codes.data(), scales.data()} : Input{x, rounded.data(), nullptr, nullptr};
  }

  void apply(const char* what, const Linear& w, const Input& in, float* y) {
    if (standard()) standard_linear(w, nullptr, 1, 1, seen(w, in), y, stream);
    else linear(w, w.fp8_inputs() ? in.rounded : in.plain, 1, y, w.rows, stream);
    mark(what);
  }
  // One matrix of the stack for each chosen expert; share: choices that read the same row.
  void apply_experts(const char* what, const Linear& w, const int32_t* chosen, size_t share, const Input& in, float* y) {
    if (standard()) standard_linear(w, chosen, plan.experts_per_token, share, seen(w, in), y, stream);
    else expert_linear(w, chosen, plan.experts_per_token, share, w.fp8_inputs() ? in.rounded : in.plain, y, stream);
    mark(what);
  }
  static StandardInput seen(const Linear& w, const Input& in) {
    return w.fp8_inputs() && in.codes != nullptr ? StandardInput{nullptr, in.codes, in.scales} : StandardInput{in.plain, nullptr, nullptr};
  }

  template <class V>
  void attend(const AttentionPlan& a, const HeadLayout& layout, const float* sinks, LayerCache& held, const RopeTurns& turns) {
    V* keys = held.keys.as<V>();
    V* values = held.values.as<V>();
    if (standard()) {
      standard_rope(layout, turns, place.data(), qkv.data(), stream);
      mark("rope");
      standard_cache(layout, qkv.data(), place.data(), plan.value_scale, keys, values, stream);
      mark("cache write");
      const StandardAttention step{layout, static_cast<uint32_t>(a.window), splits_of(a), score_scale(a)};
      standard_attention(step, place.data(), qkv.data(), keys, values, sinks, parts.data(), tops.data(), masses.data(), heads_out.data(), stream);
      mark("attention", 2);
      return;
    }
    const size_t at = position * half;
    rope(layout, RopeTurns{turns.cosine + at, turns.sine + at, half}, 1, qkv.data(), stream);
    mark("rope");
    cache_keys_values(layout, qkv.data(), 1, position, plan.value_scale, keys, values, stream);
    mark("cache write");
    AttentionStep step{};
    step.layout = layout;
    step.rows = 1;
    step.start = static_cast<uint32_t>(position);
    step.window = static_cast<uint32_t>(a.window);
    step.stride = static_cast<uint32_t>(a.window == 0 ? position + 1 : std::min(a.window, position + 1));
    step.scale = score_scale(a);
    attention(step, qkv.data(), keys, values, sinks, scores.data(), denominators.data(), heads_out.data(), stream);
    mark("attention", 3);
  }
  static float score_scale(const AttentionPlan& a) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(a.head_dim))); }

  // The branch becomes its sum over the ranks, and goes onto the residual stream.
  void add_branch() {
    if (rank.of > 1 && options.sum == RankSum::kNccl) {
      if (collective) others->all_reduce(branch.data(), plan.hidden, stream);
      mark("all-reduce");
    } else if (rank.of > 1) {
      if (collective) others->all_gather(branch.data(), plan.hidden, parts_of_ranks.data(), stream);
      mark("all-gather");
      sum_ranks(parts_of_ranks.data(), rank.of, plan.hidden, branch.data(), stream);
      mark("sum of ranks");
    }
    add(branch.data(), plan.hidden, hidden.data(), stream);
    mark("add");
  }

  void attention_branch(const LayerPlan& layer, const Layer& w, LayerCache& held) {
    const AttentionPlan& a = layer.attention;
    const HeadLayout layout = head_layout(a);
    const size_t rope_index = static_cast<size_t>(std::find(thetas.begin(), thetas.end(), a.rope_theta) - thetas.begin());
    const size_t table = rope_index * options.max_context * half;
    apply("qkv", w.attention.qkv, input(w.attention.qkv, normed.data(), 1, plan.hidden), qkv.data());
    const RopeTurns turns{cosine.data() + table, sine.data() + table, half};
    const float* sinks = w.attention.has_sinks ? w.attention.sinks.data() : nullptr;
    if (options.activations == Activations::kFp8) attend<uint16_t>(a, layout, sinks, held, turns);
    else attend<float>(a, layout, sinks, held, turns);
    apply("o", w.attention.o, input(w.attention.o, heads_out.data(), 1, a.q_heads * a.v_head_dim), branch.data());
  }

  void dense_branch(const Ffn& w) {
    const Input in = input(w.gate, normed.data(), 1, plan.hidden);
    apply("dense gate", w.gate, in, gate.data());
    apply("dense up", w.up, in, up.data());
    swiglu(gate.data(), up.data(), w.gate.rows, gate.data(), stream);
    mark("swiglu");
    apply("dense down", w.down, input(w.down, gate.data(), 1, w.gate.rows), branch.data());
  }

  void mixture_branch(const LayerPlan& layer, const Layer& w, int32_t* chosen) {
    const size_t k = plan.experts_per_token, width = layer.ffn_width;
    apply("router", w.router, Input{normed.data(), normed.data(), nullptr, nullptr}, router.data());
    sigmoid(router.data(), plan.experts, router.data(), stream);
    mark("sigmoid");
    const RouterRule rule{static_cast<uint32_t>(plan.experts), static_cast<uint32_t>(k), plan.normalise_expert_weights, plan.routed_scale};
    if (standard()) standard_choose_experts(rule, router.data(), w.correction_bias.data(), chosen, expert_weights.data(), stream);
    else choose_experts(rule, router.data(), w.correction_bias.data(), 1, chosen, expert_weights.data(), touched.data(), stream);
    mark("choice of experts");
    const Input in = input(w.ffn.gate, normed.data(), 1, plan.hidden);
    apply_experts("expert gate", w.ffn.gate, chosen, k, in, gate.data());
    apply_experts("expert up", w.ffn.up, chosen, k, in, up.data());
    swiglu(gate.data(), up.data(), k * width, gate.data(), stream);
    mark("swiglu");
    apply_experts("expert down", w.ffn.down, chosen, 1, input(w.ffn.down, gate.data(), k, width), expert_out.data());
    combine(expert_out.data(), expert_weights.data(), 1, k, plan.hidden, branch.data(), stream);
    mark("combine");
  }

  void step() {
    queued = 0;
    mark("start", 0);
    embedding(weights.embedding, id.data(), 1, hidden.data(), stream);
    mark("embedding");
    size_t mixture = 0;
    for (size_t l = 0; l < plan.layers.size(); ++l) {
      norm(weights.layers[l].input_norm);
      attention_branch(plan.layers[l], weights.layers[l], cache[l]);
      add_branch();
      norm(weights.layers[l].post_attention_norm);
      if (plan.layers[l].mixture) mixture_branch(plan.layers[l], weights.layers[l], experts.data() + mixture++ * plan.experts_per_token);
      else dense_branch(weights.layers[l].ffn);
      add_branch();
    }
    norm(weights.final_norm);
    float* head_out = rank.of > 1 ? logits_part.data() : logits.data();
    apply("head", weights.head, input(weights.head, normed.data(), 1, plan.hidden), head_out);
    if (rank.of > 1) {
      if (collective) others->all_gather(logits_part.data(), plan.vocab, logits.data(), stream);
      mark("gather of logits");
    }
    choose_token(logits.data(), vocab, bests.data(), id.data(), place.data(), stream);
    mark("choice of token", 2);
    ++position;
  }

  void put_position() {
    const uint32_t at = static_cast<uint32_t>(position);
    check(cudaMemcpyAsync(place.data(), &at, sizeof at, cudaMemcpyHostToDevice, stream), "setting the position");
    check(cudaStreamSynchronize(stream), "setting the position");
  }

  void capture() {
    // Relaxed: a collective library may allocate while it is captured.
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "capturing a step");
    const size_t before = position;
    try {
      step();
    } catch (...) {
      cudaGraph_t broken = nullptr;
      cudaStreamEndCapture(stream, &broken);
      if (broken != nullptr) cudaGraphDestroy(broken);
      cudaGetLastError();
      throw;
    }
    position = before;
    check(cudaStreamEndCapture(stream, &graph), "capturing a step");
    check(cudaGraphInstantiate(&graph_step, graph, 0), "making a graph of a step");
    check(cudaGraphUpload(graph_step, stream), "making a graph of a step");
  }
};

DecodeRank::DecodeRank(const SyntheticShape& shape, SyntheticShard rank, uint64_t seed, const DecodeOptions& options, const RopeTables& ropes, Collectives* others)
    : s_(std::make_unique<State>(shape, rank, seed, options, ropes, others)) {
  if (rank.of > 1 && others == nullptr) throw std::logic_error("a rank of several without the others");
}

DecodeRank::~DecodeRank() = default;

void DecodeRank::load_kernels() {
  const size_t before = s_->position;
  s_->collective = false;
  s_->position = 0;
  check(cudaMemsetAsync(s_->logits.data(), 0, s_->vocab * sizeof(float), s_->stream), "clearing");
  s_->step();
  s_->collective = true;
  s_->position = before;
  s_->put_position();
  feed(0);
}

void DecodeRank::fill_context(uint64_t seed, size_t positions) {
  for (size_t l = 0; l < s_->plan.layers.size(); ++l) {
    const AttentionPlan& a = s_->plan.layers[l].attention;
    const auto fill = [&]<class V>(V*) {
      const uint32_t tensor = static_cast<uint32_t>(2 * l);
      kilotoken::fp8::fill_context(seed, tensor, s_->first_kv_head, a.kv_heads, a.head_dim, positions, 1.0f, s_->cache[l].keys.as<V>(), s_->stream);
      kilotoken::fp8::fill_context(seed, tensor + 1, s_->first_kv_head, a.kv_heads, a.v_head_dim, positions, s_->plan.value_scale, s_->cache[l].values.as<V>(),
                                   s_->stream);
    };
    if (s_->options.activations == Activations::kFp8) fill(static_cast<uint16_t*>(nullptr));
    else fill(static_cast<float*>(nullptr));
  }
  check(cudaStreamSynchronize(s_->stream), "filling the context");
}

void DecodeRank::seek(size_t position) {
  s_->position = position;
  s_->put_position();
}

size_t DecodeRank::position() const { return s_->position; }

void DecodeRank::feed(int32_t id) {
  check(cudaMemcpyAsync(s_->id.data(), &id, sizeof id, cudaMemcpyHostToDevice, s_->stream), "copying to the GPU");
  check(cudaStreamSynchronize(s_->stream), "copying to the GPU");
}

void DecodeRank::capture() {
  if (!s_->standard()) throw std::logic_error("a graph of the ordered build");
  if (s_->graph_step == nullptr) s_->capture();
}

void DecodeRank::launch(bool as_graph) {
  if (s_->position >= s_->options.max_context) throw std::logic_error("a step beyond the context");
  *s_->chosen_token = kNoToken;
  if (as_graph) {
    if (s_->graph_step == nullptr) throw std::logic_error("a graph that was not captured");
    check(cudaGraphLaunch(s_->graph_step, s_->stream), "launching a graph of a step");
    ++s_->position;
  } else {
    s_->step();
  }
  check(cudaMemcpyAsync(s_->chosen_token, s_->id.data(), sizeof(int32_t), cudaMemcpyDeviceToHost, s_->stream), "copying from the GPU");
}

bool DecodeRank::done() const {
  // The token is the last thing a step writes. Looking for it costs the driver nothing, asking the driver delays whoever else launches.
  if (*static_cast<const volatile int32_t*>(s_->chosen_token) == kNoToken && ++s_->looks % kLooksAQuery != 0) return false;
  const cudaError_t state = cudaStreamQuery(s_->stream);
  if (state == cudaErrorNotReady) return false;
  check(state, "running a step");
  return true;
}

int32_t DecodeRank::token() const { return *s_->chosen_token; }

std::vector<float> DecodeRank::logits() const {
  std::vector<float> row(s_->vocab);
  check(cudaMemcpy(row.data(), s_->logits.data(), row.size() * sizeof(float), cudaMemcpyDeviceToHost), "copying from the GPU");
  return row;
}

std::vector<int32_t> DecodeRank::experts() const {
  std::vector<int32_t> chosen(s_->mixtures() * s_->plan.experts_per_token);
  check(cudaMemcpy(chosen.data(), s_->experts.data(), chosen.size() * sizeof(int32_t), cudaMemcpyDeviceToHost), "copying from the GPU");
  return chosen;
}

size_t DecodeRank::launches() const { return s_->queued; }

std::vector<std::pair<const char*, double>> DecodeRank::profile(const std::function<void()>& wait) {
  std::vector<std::pair<const char*, cudaEvent_t>> marks;
  hold_kernel<<<1, 1, 0, s_->stream>>>(30'000'000LL);
  check(cudaGetLastError(), "holding the stream");
  s_->marks = &marks;
  s_->step();
  s_->marks = nullptr;
  wait();
  std::vector<std::pair<const char*, double>> times;
  for (size_t i = 1; i < marks.size(); ++i) {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, marks[i - 1].second, marks[i].second), "reading an event");
    const auto known = std::find_if(times.begin(), times.end(), [&](const auto& t) { return std::string(t.first) == marks[i].first; });
    if (known == times.end()) times.emplace_back(marks[i].first, 1e3 * milliseconds);
    else known->second += 1e3 * milliseconds;
  }
  for (const auto& [name, event] : marks) cudaEventDestroy(event);
  return times;
}

}  // namespace kilotoken::fp8
