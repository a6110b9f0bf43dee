// The stack as the host sees it: a model on one GPU, and sequences that decode on it. Draft, verify, accept and rollback happen on the
// device; the host opens a sequence, asks for rounds and reads what they committed. C++ only, no CUDA types.
// Errors: std::invalid_argument for a model or request that the stack cannot hold; DeviceError for everything the GPU answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "matrix.h"

namespace kilotoken::stack {

struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// A kernel gave up: a wait ran out, or the model produced something that is no logit.
struct KernelFault : DeviceError {
  KernelFault(const std::string& what, uint32_t fault_code) : DeviceError(what), code(fault_code) {}
  uint32_t code;
};

struct AttentionShape {
  int q_heads = 0, kv_heads = 0, head_dim = 0;  // 192 or 128; values have 128, RoPE turns 64
  double rope_theta = 0;
  int window = 0;  // 0: none
  bool sink = false;
};

struct LayerShape {
  AttentionShape attention;
  bool mixture = false;
  int ffn_width = 0;
};

struct TargetShape {
  int hidden = 0, vocab = 0;
  int head_first = 0, head_rows = 0;  // of the vocabulary, on this GPU; no rows: all
  float epsilon = 0, value_scale = 1;
  int experts = 0, experts_per_token = 0;
  bool normalise_expert_weights = true;
  float routed_scale = 1;
  // An instrument for speed, not part of any model: 0: experts are chosen by the router alone; c: by (1 - c) times its probability plus c times a random number of
  // (layer, position / 32, expert), so that neighbouring tokens share experts. A row's choice stays a function of its own position and content.
  float shared_routing = 0;
  int max_context = 0;
  std::vector<LayerShape> layers;
};

struct DraftShape {
  int layers = 0;
  AttentionShape attention;
  float epsilon = 0, value_scale = 1;
  int ffn_width = 0, block_size = 0;
  std::vector<int> taps;  // target layers whose outputs feed the draft
  int32_t mask_id = 0;
};

// Tensors by role. A mixture layer's experts come as one matrix, rows on rows. Layers of the draft count from 0.
enum class Tensor {
  kEmbedding, kHead, kFinalNorm,
  kInputNorm, kPostNorm, kQkv, kO, kSinks, kGate, kUp, kDown, kRouter, kCorrectionBias,
  kDraftFc, kDraftHiddenNorm, kDraftFinalNorm, kDraftMask,
  kDraftInputNorm, kDraftPostNorm, kDraftQ, kDraftK, kDraftV, kDraftO, kDraftQNorm, kDraftKNorm, kDraftSinks, kDraftGate, kDraftUp,
  kDraftDown,
};

// Where weights come from: a checkpoint, or a formula. Results lie on the device and live until the next release().
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual Matrix get(Tensor tensor, int layer) = 0;
  virtual void release() = 0;
};

struct ToyTables {
  int vocab = 0, order = 0, block = 1, max_context = 0;
  std::vector<float> target;  // [vocab^order][vocab] logits
  std::vector<float> draft;   // [vocab^order][block - 1][vocab]
};

enum class DecodeRule : uint32_t { kMatch, kReject, kCoupled };

struct Request {
  std::vector<int32_t> prompt;
  uint64_t seed = 0;
  double temperature = 0, top_p = 1;
  uint32_t top_k = 0;
  uint64_t max_tokens = 1;
  std::vector<int32_t> stop_ids;  // at most 16
  DecodeRule rule = DecodeRule::kMatch;
  int block_size = 1;             // 1: plain
  // Positions before the prompt whose keys and values are made by a formula instead of by a network: long contexts without a prefill, for speed alone.
  int filled_context = 0;
  // By position from the prompt's first token, [prompt + max_tokens] or more, or empty: tokens that stand in for the draft's choices after the draft has run in full, for speed at an
  // assumed acceptance. Whoever uses it says so beside the number. Not for `reject`, whose law needs the draft's own choices.
  std::vector<int32_t> proposals;
};

struct StackRound {
  bool prefill = false;
  std::vector<int32_t> committed, drafted;
  uint32_t accepted = 0;
  int finish = 0;  // 0 none, 1 stop, 2 length
  uint64_t draft_ns = 0, verify_ns = 0;  // device clock
  std::vector<uint32_t> distinct_experts;
};

// How a round is launched. All three run the same device functions on the same data and give the same bits.
enum class Mode { kOps, kGraph, kResident };

// One instruction of the last round, in clock cycles.
struct TraceEntry {
  const char* op;
  long long began;                    // in cycles of block 0: when the inputs of the last of its blocks were there, by the common clock; 0: it was not run
  std::vector<long long> math, done;  // by block, from its own begin: matrix products done; results stored
  std::vector<long long> began_ns;    // by block, on the GPU's common clock
};

class Stack;

// One GPU's part of a model that several decode together: query heads, key/value heads, widths of feed-forward layers and rows of the head divided among
// them, everything else whole (embedding, norms, router, and the draft's feature projection, of which each takes a part by itself).
struct Rank {
  int device = 0;
  TargetShape target;
  const DraftShape* draft = nullptr;
  WeightSource* weights = nullptr;
};

// What teacher-forced steps leave on their way through the layers, for tests.
struct States {
  std::vector<std::vector<float>> residual;   // [1 + 2 layers], each [ids][hidden]: the embedding, then behind every attention and every feed-forward branch
  std::vector<std::vector<int32_t>> experts;  // [layers], each [ids][experts per token]; of a dense layer none
};

class StackSession {
 public:
  virtual ~StackSession() = default;
  // Up to `rounds` more rounds; fewer when the sequence ends. Under kResident one launch makes them all.
  virtual std::vector<StackRound> run(int rounds, Mode mode) = 0;
  virtual bool finished() const = 0;
  virtual std::unique_ptr<StackSession> fork() const = 0;
  // Of the last step, [rows][vocab]; target rows, or the draft's (row i: the draft at i + 1).
  virtual std::vector<float> logits(bool draft) const = 0;
  // The first call switches tracing on and returns nothing.
  virtual std::vector<TraceEntry> trace() = 0;
};

class Stack {
 public:
  virtual ~Stack() = default;
  // draft: null for a target alone. blocks: of the grid, 0: one a multiprocessor.
  static std::shared_ptr<Stack> make(int device, const TargetShape& target, const DraftShape* draft, WeightSource& weights, int blocks = 0);
  // Greedy sequences only. All pairs of GPUs must reach each other's memory. blocks: as in make(); one_hop: how sums over GPUs are made (kernels/comm).
  static std::shared_ptr<Stack> make_parallel(const std::vector<Rank>& ranks, int blocks = 0, bool one_hop = false);
  static std::shared_ptr<Stack> make_toy(int device, const ToyTables& toy, int blocks = 0);

  virtual std::unique_ptr<StackSession> open(const Request& request) = 0;
  // Logits of every row of `ids`, teacher-forced, `chunk` (1 .. 8) rows a step.
  virtual std::vector<float> score(const std::vector<int32_t>& ids, int chunk) = 0;
  // Of every row of `ids`, in the same steps. Models on one GPU only.
  virtual States states(const std::vector<int32_t>& ids, int chunk) = 0;
  virtual int blocks() const = 0;
  virtual size_t weight_bytes() const = 0;
};

}  // namespace kilotoken::stack
