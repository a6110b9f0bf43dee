// The plain target over several ranks against one rank, and how long its steps take.
//   reference_parallel local                 ranks of a small shape as threads on one GPU, without NCCL: 2 ranks, and 4 and 8 that share key/value heads
//   reference_parallel check GPUS            the 1.02 T shape, 3 layers, over 1 rank and over GPUS of them through NCCL
//   reference_parallel time GPUS LAYERS MORE [context]    microseconds a step and a layer; MORE = 0: as many layers as fit
//   reference_parallel need GIB              which layers fit into GIB of free memory a GPU; needs no GPU
//   reference_parallel rank LAYERS TOKENS [die-at TOKEN]  this process is one rank of those that a launcher started
// How far rows may lie apart. With unquantised activations: gamma(L) = L u / (1 - L u) of the row's largest logit, u = 2^-24, L the rounded steps from
// the embedding to a logit (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1, without a factor for cancellation, which
// the runs then have to do without). With FP8 activations a difference in the last bit can move an input to the next E4M3 code, so rows are
// held to what independent roundings of every quantised input give, 2^-4 sqrt(inputs) of the row's norm, where the same experts were chosen;
// rows with another choice are counted. A differing top-1 is excused only if the two lie within ten times the root mean square distance of the
// row's logits, five for each: a logit that is wrong by itself is not excused by being wrong.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <functional>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "core/ties.h"
#include "native/cuda/reference_node.h"
#include "native/engine/fault.h"
#include "reference/fp8/decode_rank.h"
#include "reference/fp8/device.h"
#include "reference/fp8/rank_weights.h"
#include "reference/fp8/synthetic.h"
#include "reference/fp8/target.h"

using namespace kilotoken;

namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::vector<int32_t> random_ids(size_t count, size_t vocab) {
  std::mt19937 generator(77);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(generator() % vocab);
  return ids;
}

struct Rows {
  std::vector<std::vector<float>> logits;
  std::vector<std::vector<int32_t>> experts;
};

double gamma(double steps) { return steps * 0x1p-24 / (1.0 - steps * 0x1p-24); }

// Rounded steps from the embedding to a logit, every sum counted at its full length.
double rounded_steps(const SyntheticShape& s, size_t context) {
  double steps = 2.0 * s.hidden;
  for (uint32_t l = 0; l < s.layers; ++l)
    steps += 4.0 * s.hidden + s.head_dim + static_cast<double>(context) + s.q_heads * s.v_head_dim + (l == 0 ? s.dense_width : s.expert_width + s.experts_per_token);
  return steps;
}

// `same`: bits are expected. Rows are of the same inputs.
void compare(const std::string& what, const Rows& a, const Rows& b, const SyntheticShape& shape, Activations activations, bool same = false) {
  if (!tally::that(a.logits.size() == b.logits.size() && !a.logits.empty(), "%s: %zu and %zu rows", what.c_str(), a.logits.size(), b.logits.size())) return;
  size_t differing = 0, other_experts = 0, same_top = 0, near_ties = 0;
  double worst = 0, worst_norm = 0;
  const double steps = gamma(rounded_steps(shape, a.logits.size())), codes = std::ldexp(std::sqrt(4.0 * shape.layers), -4);
  for (size_t r = 0; r < a.logits.size(); ++r) {
    const std::vector<float>&x = a.logits[r], &y = b.logits[r];
    double largest = 0, top = 0, norm = 0, apart = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double difference = std::fabs(static_cast<double>(x[i]) - y[i]);
      largest = difference <= largest ? largest : difference;  // a NaN stays
      top = std::max(top, std::fabs(static_cast<double>(x[i])));
      norm += static_cast<double>(x[i]) * x[i];
      apart += difference * difference;
    }
    differing += std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) != 0;
    const bool experts_differ = a.experts[r] != b.experts[r];
    other_experts += experts_differ;
    const int top_x = argmax(x.data(), static_cast<int>(x.size())), top_y = argmax(y.data(), static_cast<int>(y.size()));
    if (top_x == top_y) ++same_top;
    else if (x[static_cast<size_t>(top_x)] - x[static_cast<size_t>(top_y)] <= 10 * std::sqrt(apart / static_cast<double>(x.size()))) ++near_ties;
    const double share = activations == Activations::kFp8 ? std::sqrt(apart / norm) / codes : largest / (steps * top);
    if (!experts_differ) worst = share <= worst ? worst : share;
    worst_norm = std::max(worst_norm, std::sqrt(apart / norm));
  }
  const size_t rows = a.logits.size();
  std::printf("%s: %zu of %zu rows differ, largest distance %.3g of a row's norm, %.3g of the bound; other experts in %zu rows; top-1 equal %zu, near ties %zu\n",
              what.c_str(), differing, rows, worst_norm, worst, other_experts, same_top, near_ties);
  tally::that(same_top + near_ties == rows, "%s: top-1 differs beyond near ties", what.c_str());
  tally::that(worst <= 1.0, "%s: %.3g of the bound", what.c_str(), worst);
  if (activations != Activations::kFp8) tally::that(other_experts == 0, "%s: other experts in %zu rows", what.c_str(), other_experts);
  if (same) tally::that(differing == 0, "%s: %zu rows have other bits", what.c_str(), differing);
}

// ---- ranks as threads on one GPU ----

// Gathers through a common buffer; every rank waits for all others twice.
class Shared {
 public:
  explicit Shared(size_t ranks, size_t most) : ranks_(ranks), buffer_(ranks * most * sizeof(float)) {}

  void gather(size_t rank, const float* x, size_t count, float* y, cudaStream_t stream) {
    fp8::check(cudaMemcpyAsync(buffer_.as<float>() + rank * count, x, count * sizeof(float), cudaMemcpyDeviceToDevice, stream), "gathering");
    fp8::check(cudaStreamSynchronize(stream), "gathering");
    meet();
    fp8::check(cudaMemcpyAsync(y, buffer_.data(), ranks_ * count * sizeof(float), cudaMemcpyDeviceToDevice, stream), "gathering");
    fp8::check(cudaStreamSynchronize(stream), "gathering");
    meet();
  }

 private:
  void meet() {
    std::unique_lock lock(mutex_);
    const size_t round = round_;
    if (++here_ == ranks_) {
      here_ = 0;
      ++round_;
      changed_.notify_all();
    } else if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return round_ != round; })) {
      throw std::runtime_error("a rank did not come");
    }
  }

  const size_t ranks_;
  fp8::Memory buffer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t here_ = 0, round_ = 0;
};

class SharedRank final : public fp8::Collectives {
 public:
  SharedRank(Shared& shared, size_t rank) : shared_(shared), rank_(rank) {}
  void all_gather(const float* x, size_t count, float* y, cudaStream_t stream) override { shared_.gather(rank_, x, count, y, stream); }
  void all_reduce(float*, size_t, cudaStream_t) override { throw std::logic_error("no library adds here"); }

 private:
  Shared& shared_;
  const size_t rank_;
};

void wait(fp8::DecodeRank& rank) {
  const double deadline = seconds() + 20;
  while (!rank.done())
    if (seconds() > deadline) throw std::runtime_error("a step does not end");
}

Rows decode(const SyntheticShape& shape, uint32_t ranks, const fp8::DecodeOptions& options, const std::vector<int32_t>& ids, size_t filled, bool graph = false) {
  const fp8::RopeTables ropes = fp8::rope_tables(fp8::rank_plan(shape, {0, ranks}, options.max_context), options.max_context);
  Shared shared(ranks, std::max(shape.hidden, shape.vocab));
  Rows rows;
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::string failure;
  for (uint32_t r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      try {
        SharedRank others(shared, r);
        fp8::DecodeRank rank(shape, {r, ranks}, 1, options, ropes, ranks > 1 ? &others : nullptr);
        rank.load_kernels();
        rank.fill_context(1, filled);
        if (graph) rank.capture();
        rank.seek(filled);
        for (const int32_t id : ids) {
          rank.feed(id);
          rank.launch(graph);
          wait(rank);
          if (r != 0) continue;
          rows.logits.push_back(rank.logits());
          rows.experts.push_back(rank.experts());
          const std::vector<float>& row = rows.logits.back();
          tally::that(rank.token() == argmax(row.data(), static_cast<int>(row.size())), "the chosen token is not the greedy one");
        }
      } catch (const std::exception& error) {
        const std::lock_guard lock(mutex);
        if (failure.empty()) failure = error.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (!failure.empty()) throw std::runtime_error(failure);
  return rows;
}

// The engine of target.h over the same weights, a row at a time.
Rows by_target(const SyntheticShape& shape, Activations activations, const std::vector<int32_t>& ids, size_t max_context) {
  const fp8::Target target(activations, fp8::synthetic_plan(shape, {0, 1}, max_context), fp8::synthetic_weights(1, shape, {0, 1}), {});
  const auto state = target.open();
  Rows rows;
  for (const int32_t id : ids) {
    StepOutput out;
    target.step(*state, std::span(&id, 1), 0, out);
    rows.logits.push_back(out.logits);
    std::vector<int32_t> chosen;
    for (size_t i = 0; i < out.experts_touched.size(); ++i)
      if (out.experts_touched[i] != 0) chosen.push_back(static_cast<int32_t>(i % out.experts_per_layer));
    rows.experts.push_back(chosen);
  }
  return rows;
}

void local() {
  SyntheticShape shape;  // true heads, everything else narrow; two key/value heads, so that four ranks share them
  shape.layers = 9;      // a global layer, six windowed ones, two more of each
  shape.hidden = 512;
  shape.q_heads = 32;
  shape.kv_heads = 2;
  shape.experts = 32;
  shape.expert_width = 1024;
  shape.dense_width = 1024;
  shape.vocab = 2048;
  const std::vector<int32_t> ids = random_ids(150, shape.vocab);  // beyond the window of 128
  for (const bool fp8_experts : {true, false}) {
    shape.fp8_experts = fp8_experts;
    for (const Activations activations : {Activations::kFp8, Activations::kBf16}) {
      const std::string what = std::string(fp8_experts ? "fp8" : "mxfp4") + " experts, " + (activations == Activations::kFp8 ? "fp8" : "unquantised") + " activations";
      fp8::DecodeOptions ordered, standard;
      ordered.activations = standard.activations = activations;
      ordered.max_context = standard.max_context = 512;
      ordered.build = fp8::Build::kOrdered;
      const Rows one = decode(shape, 1, ordered, ids, 0);
      compare(what + ": one rank, ordered, against target.h", by_target(shape, activations, ids, 512), one, shape, activations, true);
      const Rows one_standard = decode(shape, 1, standard, ids, 0);
      compare(what + ": one rank, standard against ordered", one, one_standard, shape, activations);
      compare(what + ": one rank, graph against launches", one_standard, decode(shape, 1, standard, ids, 0, true), shape, activations, true);
      for (const uint32_t ranks : {2u, 4u}) {
        const std::string of = what + ": " + std::to_string(ranks) + " ranks";
        compare(of + ", ordered, against one", one, decode(shape, ranks, ordered, ids, 0), shape, activations);
        const Rows several = decode(shape, ranks, standard, ids, 0);
        compare(of + ", standard, against one", one_standard, several, shape, activations);
        compare(of + ", standard, again", several, decode(shape, ranks, standard, ids, 0), shape, activations, true);
      }
      compare(what + ": 2 ranks against one behind a filled context", decode(shape, 1, standard, ids, 300), decode(shape, 2, standard, ids, 300), shape, activations);
    }
  }
  // What is counted before anything is made.
  for (const uint32_t ranks : {1u, 2u, 4u}) {
    shape.fp8_experts = true;
    const fp8::Weights w = fp8::rank_weights(1, shape, {ranks - 1, ranks});
    uint64_t bytes = 0;
    const auto count = [&](const fp8::Linear& m) { bytes += m.codes.bytes() + m.scales.bytes(); };
    count(w.embedding), count(w.head);
    for (const fp8::Layer& layer : w.layers) count(layer.attention.qkv), count(layer.attention.o), count(layer.router), count(layer.ffn.gate), count(layer.ffn.up), count(layer.ffn.down);
    const uint64_t said = fp8::rank_bytes(shape, {ranks - 1, ranks}).resident;
    tally::that(bytes <= said && said - bytes < 64 * 1024, "%u ranks: %llu bytes were made, %llu counted", ranks, static_cast<unsigned long long>(bytes),
                static_cast<unsigned long long>(said));
  }
}

// ---- the true shape, over GPUs ----

ReferenceNodeOptions node_options(size_t gpus, size_t layers) {
  ReferenceNodeOptions options;
  options.gpus.clear();
  for (size_t i = 0; i < gpus; ++i) options.gpus.push_back(static_cast<int>(i));
  options.layers = layers;
  options.max_context = 1024;
  return options;
}

struct Got {
  Rows rows;
  std::vector<int32_t> tokens;
};

Got run(const ReferenceNodeOptions& given, const std::vector<int32_t>& prompt, size_t tokens, Got* again = nullptr) {
  ReferenceNodeOptions options = given;
  options.keep_rows = true;
  const auto node = open_reference_node(options);
  const auto once = [&] {
    ReferenceRun out = node->generate(prompt, tokens);
    return Got{{std::move(out.rows), std::move(out.experts)}, std::move(out.tokens)};
  };
  Got first = once();
  if (again != nullptr) *again = once();
  return first;
}

// Rows of the prompt are of the same inputs in every run; those behind it as long as the tokens agree.
Rows common(const Got& a, const Got& b, size_t prompt) {
  size_t same = 0;
  while (same < a.tokens.size() && same < b.tokens.size() && a.tokens[same] == b.tokens[same]) ++same;
  const size_t rows = std::min(a.rows.logits.size(), prompt + same);
  return {{a.rows.logits.begin(), a.rows.logits.begin() + static_cast<std::ptrdiff_t>(rows)}, {a.rows.experts.begin(), a.rows.experts.begin() + static_cast<std::ptrdiff_t>(rows)}};
}

void compare(const std::string& what, const Got& a, const Got& b, size_t prompt, const SyntheticShape& shape, Activations activations, bool same = false) {
  compare(what, common(a, b, prompt), common(b, a, prompt), shape, activations, same);
  size_t equal = 0;
  while (equal < a.tokens.size() && equal < b.tokens.size() && a.tokens[equal] == b.tokens[equal]) ++equal;
  std::printf("%s: %zu of %zu greedy tokens equal\n", what.c_str(), equal, a.tokens.size());
  if (same) tally::that(a.tokens == b.tokens, "%s: other tokens", what.c_str());
}

// What cannot run is refused before anything is made, with the numbers.
void refusals() {
  const auto said = [](const ReferenceNodeOptions& options) -> std::string {
    try {
      open_reference_node(options);
    } catch (const EnvironmentFault& fault) {
      return std::string("environment: ") + fault.what();
    } catch (const InputFault& fault) {
      return std::string("input: ") + fault.what();
    }
    return "opened";
  };
  const auto refused = [&](const ReferenceNodeOptions& options, const char* how) {
    const double start = seconds();
    const std::string text = said(options);
    tally::that(text.find(how) != std::string::npos && seconds() - start < 5, "refused as \"%s\" instead of \"%s\"", text.c_str(), how);
    return text;
  };
  std::printf("%s\n", refused(node_options(1, 1000), " GiB are free; ").c_str());
  ReferenceNodeOptions options = node_options(1, 2);
  options.gpus = {0, 99};
  refused(options, "environment: there is no GPU 99");
  options.gpus = {0, 0};
  refused(options, "input: reference node: GPU 0 was named twice");
  options.gpus = {0, 1, 2};
  refused(options, "input: reference node of 3 ranks: key/value heads that do not divide among ranks");
  options.gpus = {0};
  options.filled_context = options.max_context;
  refused(options, "input: reference node: the filled context leaves no room");
}

void across(size_t gpus) {
  refusals();
  const std::vector<int32_t> prompt = random_ids(12, SyntheticShape{}.vocab);
  constexpr size_t kTokens = 13;
  for (const bool fp8_experts : {true, false}) {
    ReferenceNodeOptions one = node_options(1, 3), several = node_options(gpus, 3);
    one.fp8_experts = several.fp8_experts = fp8_experts;
    SyntheticShape shape;
    shape.layers = 3;
    shape.fp8_experts = fp8_experts;
    const std::string experts = fp8_experts ? "fp8" : "mxfp4", of = std::to_string(gpus) + " ranks";
    for (const Activations activations : {Activations::kFp8, Activations::kBf16}) {
      const std::string what = experts + " experts, " + (activations == Activations::kFp8 ? "fp8" : "unquantised") + " activations: ";
      one.activations = several.activations = activations;
      one.ordered = several.ordered = false;
      const Got alone = run(one, prompt, kTokens);
      if (activations == Activations::kFp8) {
        one.ordered = true;
        const Got ordered = run(one, prompt, kTokens);
        std::vector<int32_t> ids = prompt;
        ids.insert(ids.end(), ordered.tokens.begin(), ordered.tokens.end() - 1);
        compare(what + "one rank, ordered, against target.h", by_target(shape, activations, ids, 1024), ordered.rows, shape, activations, true);
        compare(what + "one rank, standard against ordered", ordered, alone, prompt.size(), shape, activations);
        one.ordered = false;
      }
      if (gpus == 1) continue;
      Got again;
      const Got fixed = run(several, prompt, kTokens, &again);
      compare(what + of + " against one", alone, fixed, prompt.size(), shape, activations);
      compare(what + of + ", again", fixed, again, prompt.size(), shape, activations, true);
      if (activations != Activations::kFp8) continue;
      several.graph = true;
      compare(what + of + ", graph against launches", fixed, run(several, prompt, kTokens), prompt.size(), shape, activations, true);
      several.nccl_sum = true;
      // Of two parts there is one sum.
      compare(what + of + ", graph, NCCL's sum against the fixed order", fixed, run(several, prompt, kTokens), prompt.size(), shape, activations, gpus == 2);
      several.graph = false;
      compare(what + of + ", NCCL's sum against the fixed order", fixed, run(several, prompt, kTokens), prompt.size(), shape, activations, gpus == 2);
      several.nccl_sum = false;
    }
  }
}

// ---- time ----

double median(std::vector<uint64_t> ns) {
  std::sort(ns.begin(), ns.end());
  return static_cast<double>(ns[ns.size() / 2]) / 1e3;
}

struct Timed {
  double us = 0, low = 0, high = 0;  // median and the middle 90 % of the steps
};

Timed time_steps(ReferenceNode& node) {
  std::vector<uint64_t> ns = node.generate(random_ids(8, SyntheticShape{}.vocab), 100).step_ns;
  ns.erase(ns.begin(), ns.begin() + 4);
  std::sort(ns.begin(), ns.end());
  return {median(ns), static_cast<double>(ns[ns.size() / 20]) / 1e3, static_cast<double>(ns[ns.size() - 1 - ns.size() / 20]) / 1e3};
}

void time_node(size_t gpus, size_t layers, size_t more, size_t context) {
  for (const bool fp8_experts : {true, false}) {
    ReferenceNodeOptions options = node_options(gpus, layers);
    options.fp8_experts = fp8_experts;
    options.filled_context = context;
    options.max_context = context + 256;
    size_t most = more;
    if (more == 0) {
      uint64_t free = UINT64_MAX;
      for (const int gpu : options.gpus) free = std::min<uint64_t>(free, fp8::inspect_device(gpu).free_memory);
      ReferenceNodeOptions all = options;
      all.layers = 70;
      most = reference_layers_that_fit(all, static_cast<uint32_t>(gpus), free - (uint64_t{1} << 30));
      if (most <= layers) throw std::runtime_error("no more layers fit");
    }
    std::printf("%s experts, %zu ranks, context %zu (random keys and values), synthetic weights, batch 1, medians of 96 steps [middle 90 %%]\n",
                fp8_experts ? "fp8" : "mxfp4", gpus, context);
    for (const bool nccl_sum : {false, true}) {
      if (gpus == 1 && nccl_sum) continue;
      options.nccl_sum = nccl_sum;
      double us[2][2] = {};
      double bytes[2] = {};
      for (const bool many : {false, true}) {
        options.layers = many ? most : layers;
        const auto node = open_reference_node(options);
        bytes[many] = static_cast<double>(node->step_weight_bytes());
        if (!many && !nccl_sum)
          std::printf(" %s\n", node->collectives().c_str());
        else if (!many) std::printf(" ncclSum\n");
        std::printf("  %zu layers: %.1f GB of weights on all ranks, made in %.1f s; %zu launches a step; %.2f GB of weights read by a rank\n", options.layers,
                    static_cast<double>(node->weight_bytes()) / 1e9, node->load_seconds(), node->launches(), bytes[many] / 1e9);
        for (const bool graph : {false, true}) {
          node->configure(graph, context);
          const Timed timed = time_steps(*node);
          us[many][graph] = timed.us;
          std::printf("   %-8s %9.1f us [%.1f, %.1f], %.1f tokens/s, %.0f GB/s a rank\n", graph ? "graph" : "launches", timed.us, timed.low, timed.high, 1e6 / timed.us,
                      bytes[many] / timed.us / 1e3);
        }
        if (many && fp8_experts && (nccl_sum || gpus == 1)) {
          node->configure(false, context);
          node->profile();
          for (const auto& [name, sum] : node->profile()) std::printf("    %-18s %9.1f us\n", name.c_str(), sum);
        }
      }
      for (const bool graph : {false, true}) {
        const double layer_us = (us[1][graph] - us[0][graph]) / static_cast<double>(most - layers), layer_bytes = (bytes[1] - bytes[0]) / static_cast<double>(most - layers);
        std::printf("  a layer, %-8s %.1f us, %.1f MB of weights a rank, %.0f GB/s\n", graph ? "graph" : "launches", layer_us, layer_bytes / 1e6, layer_bytes / layer_us / 1e3);
      }
    }
  }
}

// ---- memory, before anything is made ----

void needs(double gib) {
  const double unit = 1024.0 * 1024.0 * 1024.0;
  std::printf("layers of 70 that fit into %.1f GiB a GPU at 4096 positions, and what all 70 would take\n", gib);
  for (const bool fp8_experts : {true, false})
    for (const uint32_t ranks : {1u, 2u, 4u, 8u, 16u}) {
      ReferenceNodeOptions options;
      options.fp8_experts = fp8_experts;
      const ReferenceNeed need = reference_need(options, ranks);
      const uint64_t weights = fp8::rank_bytes({.fp8_experts = fp8_experts}, {0, ranks}).resident;
      std::printf("%-5s experts, %2u ranks: %2zu layers; 70 take %7.1f GiB a rank (weights %.1f GB, %.2f GB of them read for a token)\n", fp8_experts ? "fp8" : "mxfp4", ranks,
                  reference_layers_that_fit(options, ranks, static_cast<uint64_t>(gib * unit)), static_cast<double>(need.total()) / unit, static_cast<double>(weights) / 1e9,
                  static_cast<double>(fp8::rank_bytes({.fp8_experts = fp8_experts}, {0, ranks}).step) / 1e9);
    }
}

// ---- one process a rank ----

int launched(size_t layers, size_t tokens, size_t die_at) {
  ReferenceNodeOptions options;
  options.gpus.clear();
  options.launched = true;
  options.layers = layers;
  options.max_context = 1024;
  options.nccl_sum = false;
  const double start = seconds();
  const auto node = open_reference_node(options);
  std::printf("%u ranks, ready after %.1f s, %s\n", node->ranks(), seconds() - start, node->collectives().c_str());
  std::fflush(stdout);
  const std::vector<int32_t> prompt = random_ids(12, SyntheticShape{}.vocab);
  if (die_at > 0) {
    node->generate(prompt, die_at);
    raise(SIGKILL);
  }
  const ReferenceRun out = node->generate(prompt, tokens);
  std::printf("median step %.1f us; tokens", median(out.step_ns));
  for (const int32_t token : out.tokens) std::printf(" %d", token);
  std::printf("\n");
  return 0;
}

// A kernel that waits for a rank that will not come must not hold up the end of the process.
[[noreturn]] void leave(int status) {
  std::fflush(nullptr);
  _exit(status);
}

size_t number(int argc, char** argv, int at, size_t otherwise) { return at < argc ? std::stoul(argv[at]) : otherwise; }

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::string what = argc > 1 ? argv[1] : "local";
  const double start = seconds();
  try {
    if (what == "rank") return launched(number(argc, argv, 2, 2), number(argc, argv, 3, 16), argc > 5 && std::string(argv[4]) == "die-at" ? number(argc, argv, 5, 0) : 0);
    if (what == "need") {
      needs(argc > 2 ? std::stod(argv[2]) : 139.0);
      return 0;
    }
    fp8::require_device();
    if (what == "local") local();
    else if (what == "check") across(number(argc, argv, 2, 1));
    else if (what == "time") time_node(number(argc, argv, 2, 1), number(argc, argv, 3, 2), number(argc, argv, 4, 4), number(argc, argv, 5, 0));
    else return 2;
    std::printf("%.1f s\n", seconds() - start);
  } catch (const fp8::DeviceLack& lack) {
    std::fprintf(stderr, "error: %s\n", lack.what());
    return 3;
  } catch (const EnvironmentFault& fault) {
    std::fprintf(stderr, "error: %s\n", fault.what());
    leave(3);
  } catch (const InputFault& fault) {
    std::fprintf(stderr, "error: %s\n", fault.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "internal error: %s\n", error.what());
    leave(70);
  }
  return tally::finish("reference parallel");
}
