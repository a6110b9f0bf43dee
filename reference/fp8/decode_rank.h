// One rank of the plain target, decoding a token at a time: every op a launch of its own, none fused, no speculation. Alone it is the whole
// target; of several it holds its part of the heads, widths and vocabulary, sums what the output projections give over the ranks, and
// gathers the logits. Everything lives on the device that is current where it is made and used.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "collectives.h"
#include "core/synthetic.h"
#include "reference/cpu/linear_input.h"
#include "reference/cpu/plan.h"
#include "weights.h"

namespace kilotoken::fp8 {

// Whose order of sums. kOrdered: that of target.h, whose bits one rank alone reproduces; slow. kStandard: standard_*.cuh.
enum class Build { kOrdered, kStandard };
// How parts of ranks are added. kFixedOrder: gathered, then added from rank 0 upwards, so that bits do not depend on the library.
enum class RankSum { kFixedOrder, kNccl };

struct DecodeOptions {
  Activations activations = Activations::kFp8;
  Build build = Build::kStandard;
  RankSum sum = RankSum::kFixedOrder;
  size_t max_context = 0;
};

// Cosines and sines of every position, computed once for all ranks of a process. [ropes][max_context][half]
struct RopeTables {
  std::vector<double> thetas;
  size_t half = 0;
  std::vector<float> cosine, sine;
};
RopeTables rope_tables(const TargetPlan& plan, size_t max_context);

// Bytes of caches, tables and scratch of a rank.
uint64_t decode_bytes(const SyntheticShape& shape, SyntheticShard rank, const DecodeOptions& options);

// What a rank's plan and options ask of the kernels that they do not have, or null.
const char* decode_misfit(const TargetPlan& plan, const DecodeOptions& options);

class DecodeRank {
 public:
  // others: null for one rank alone, else it outlives this. Throws DeviceLack when memory runs out.
  DecodeRank(const SyntheticShape& shape, SyntheticShard rank, uint64_t seed, const DecodeOptions& options, const RopeTables& ropes, Collectives* others);
  ~DecodeRank();
  DecodeRank(const DecodeRank&) = delete;
  DecodeRank& operator=(const DecodeRank&) = delete;

  // Launches every kernel of a step once, without the other ranks, so that none is loaded while another rank waits inside a collective.
  void load_kernels();
  // The cache of positions [0, positions) becomes random (a function of the seed): a context that nobody computed.
  void fill_context(uint64_t seed, size_t positions);
  // The next step is at this position, which is at most the one behind the last.
  void seek(size_t position);
  size_t position() const;
  // The token of the next step, in place of the one that the last step chose.
  void feed(int32_t id);
  // Captures a step as a CUDA graph (kStandard only). Behind a step that ran, so that the collectives are connected.
  void capture();
  // Queues one step; afterwards the chosen token is the next one's input.
  void launch(bool as_graph);
  // True when all that was queued is done. Throws as check does.
  bool done() const;
  // Of the last step, which is done: the chosen token; logits [vocab of the whole model]; experts [mixture layers][experts_per_token], ascending.
  int32_t token() const;
  std::vector<float> logits() const;
  std::vector<int32_t> experts() const;

  // Launches of kernels and collectives in one step.
  size_t launches() const;
  // Time between the launches of one step, by what they are: (name, microseconds), in order of first appearance. Runs one step, waiting with `wait`.
  std::vector<std::pair<const char*, double>> profile(const std::function<void()>& wait);

 private:
  struct State;
  std::unique_ptr<State> s_;
};

}  // namespace kilotoken::fp8
