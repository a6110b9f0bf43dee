// The GPUs of this machine for the node benchmark: models of the 1.02 T shape, tensor-parallel over the first GPUs, whose speculation is given
// its proposals. Behind it stand the stack, and the plain reference of reference_node.h.
// Throws InputFault for what an engine cannot hold, EnvironmentFault and fp8::DeviceLack for what the machine lacks, fp8::DeviceFault when a
// GPU failed or a wait ran out; after that the process can use the GPUs no more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "reference/cpu/decode.h"

namespace kilotoken {

struct NodeGpu {
  int index = 0;
  std::string name;
  uint64_t memory = 0, free_memory = 0;  // bytes
  std::vector<int> peers;                // whose memory it can read and write
};

struct NodeReport {
  std::string lack;  // why nothing can run here, or empty
  std::vector<NodeGpu> gpus;
  // Why the engines of this build cannot, or empty.
  std::string fp8_experts, reference, filled_context, shared_routing;
};
NodeReport inspect_node();

struct NodeSpec {
  bool reference = false;
  bool fp8_experts = false;
  uint32_t layers = 0, gpus = 0;
  double shared_routing = 0;  // 0 .. 1
  size_t max_context = 0;     // positions, filled ones among them
  std::optional<size_t> filled_context;  // the reference fills its cache once
  uint64_t seed = 1;
};

enum class NodeMode { kOps, kGraph, kResident };

struct NodeRequest {
  std::vector<int32_t> prompt;
  size_t filled_context = 0;  // positions before the prompt
  size_t max_tokens = 1;
  int block = 1;
  std::vector<int32_t> proposals;  // [max_tokens or more] by place in the output; empty: none
  NodeMode mode = NodeMode::kResident;
  bool trace = false;  // clocks of every operation of the last round; slower
};

// One kind of operation in the last round, on the first GPU, all of its instructions together, nanoseconds. total: from one beginning to the next.
// math, busy: until a block's products are done and its results stored, means over blocks; slowest: busy of the slowest block.
struct NodeTraceOp {
  std::string op;
  uint32_t count = 0;
  double total_ns = 0, math_ns = 0, busy_ns = 0, slowest_ns = 0;
};

struct NodeDecoded {
  std::vector<Round> rounds;  // the first is the prefill's
  uint64_t prefill_ns = 0;    // of decode(), if the engine does both in one go
};

// One output. Nothing but max_tokens ends it.
class NodeSequence {
 public:
  virtual ~NodeSequence() = default;
  virtual void decode() = 0;  // to the end, once
  virtual const NodeDecoded& decoded() const = 0;
  virtual std::vector<float> logits() const = 0;  // of the last step's target, [rows of that step][vocab]; empty if not to be had
  virtual std::vector<NodeTraceOp> trace() = 0;   // in the order in which operations first come; empty unless asked for
};

class NodeModel {
 public:
  virtual ~NodeModel() = default;
  virtual size_t weight_bytes() const = 0;  // on the first GPU
  virtual std::unique_ptr<NodeSequence> generate(const NodeRequest& request) = 0;
};

std::shared_ptr<NodeModel> open_node(const NodeSpec& spec);

struct NodeReadCeiling {
  std::vector<double> bytes_per_second;  // a GPU, all reading at once
  std::string method;
};
NodeReadCeiling node_read_ceiling(uint32_t gpus);

}  // namespace kilotoken
