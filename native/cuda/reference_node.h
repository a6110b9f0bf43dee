// The plain FP8 target over the GPUs of a node, or over processes that a launcher started on one or more machines: tensor-parallel,
// autoregressive, one launch an op, collectives by NCCL. What a claim of speed is held against. One rank alone needs no NCCL.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "native/engine/spec.h"

namespace kilotoken {

struct ReferenceNodeOptions {
  // One process: rank i runs on gpus[i], each in a thread of its own. Empty if `launched`: then this process is one rank, as the environment says
  // (reference/fp8/launch.h), on the GPU of its local rank, and every process makes the same calls.
  std::vector<int> gpus{0};
  bool launched = false;

  size_t layers = 70;  // of the 1.02 T shape
  uint64_t seed = 1;
  bool fp8_experts = true;    // else MXFP4
  size_t max_context = 4096;  // positions, `filled_context` among them
  size_t filled_context = 0;  // random keys and values that stand before every prompt

  Activations activations = Activations::kFp8;
  bool ordered = false;   // every sum in the order of the CPU reference: one rank has its very bits; slow
  bool nccl_sum = false;  // NCCL's own all-reduce; else gathered and added in order of rank
  bool graph = false;     // a step is one CUDA graph of the same launches
  bool keep_rows = false;  // logits and experts of every step, the prompt's among them

  std::chrono::milliseconds meet_limit = std::chrono::seconds(60);  // for all ranks to come
  std::chrono::milliseconds step_limit = std::chrono::seconds(20);  // for one step, and for NCCL to connect
};

struct ReferenceRun {
  std::vector<int32_t> tokens;
  std::vector<uint64_t> step_ns;  // of each token: from the first launch of its step until the device has finished it
  uint64_t prompt_ns = 0;         // all steps before the first token's
  std::vector<std::vector<float>> rows;       // [prompt + tokens - 1][vocab], if asked for
  std::vector<std::vector<int32_t>> experts;  // [prompt + tokens - 1][mixture layers * experts_per_token], ascending in each layer
};

class ReferenceNode {
 public:
  virtual ~ReferenceNode() = default;
  // Greedy, from an empty sequence behind the filled context; ties to the lowest id. Throws InputFault for a prompt that is empty, out of the
  // vocabulary or too long; EnvironmentFault when another rank is lost; fp8::DeviceFault when a GPU fails. After any but the first the node is
  // of no more use, nor is a GPU to this process.
  virtual ReferenceRun generate(std::span<const int32_t> prompt, size_t max_tokens) = 0;
  // From here on: steps as launches or as a graph, behind so many filled positions. Throws as open_reference_node and generate do.
  virtual void configure(bool graph, size_t filled_context) = 0;

  virtual uint32_t ranks() const = 0;
  virtual uint64_t weight_bytes() const = 0;       // resident on all ranks together
  virtual uint64_t step_weight_bytes() const = 0;  // of weights that one rank reads for a token
  virtual double load_seconds() const = 0;         // to make weights, caches and communicators
  virtual size_t launches() const = 0;             // in a step, collectives among them
  virtual std::string collectives() const = 0;     // "NCCL 2.28.9, ncclSum", or "none"
  // One step behind `context` positions, op by op, on rank 0: (name, microseconds over all layers).
  virtual std::vector<std::pair<std::string, double>> profile() = 0;
};

// Bytes a rank would take, before anything is made: what open_reference_node compares with what is free.
struct ReferenceNeed {
  uint64_t weights = 0, cache_and_scratch = 0, communication = 0;
  uint64_t total() const { return weights + cache_and_scratch + communication; }
};
ReferenceNeed reference_need(const ReferenceNodeOptions& options, uint32_t ranks);
// The most layers whose need is at most `bytes`; 0 if none.
size_t reference_layers_that_fit(ReferenceNodeOptions options, uint32_t ranks, uint64_t bytes);

// Throws InputFault for options that make no node; EnvironmentFault: too little memory (with the numbers), no such GPU, no NCCL, ranks that did not
// meet; fp8::DeviceLack, fp8::DeviceFault.
std::unique_ptr<ReferenceNode> open_reference_node(const ReferenceNodeOptions& options);

}  // namespace kilotoken
