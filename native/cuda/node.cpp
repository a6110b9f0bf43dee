#include "node.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <barrier>
#include <exception>
#include <limits>
#include <thread>
#include <utility>

#include "core/synthetic.h"
#include "kernels/bench/floors.h"
#include "kernels/stack.h"
#include "kernels/synthetic/source.h"
#include "native/engine/fault.h"
#include "reference/fp8/device.h"
#include "reference_node.h"

namespace kilotoken {

namespace {

// What the GPU answers while something is made is mostly that it lacks memory; while it decodes, that it is of no more use.
enum class While { kMaking, kDecoding };

template <While kWhile = While::kMaking, class Body>
auto with_faults(Body body) {
  try {
    return body();
  } catch (const stack::KernelFault& fault) {
    throw fp8::DeviceFault(fault.what());
  } catch (const stack::DeviceError& error) {
    if constexpr (kWhile == While::kDecoding) throw fp8::DeviceFault(error.what());
    throw EnvironmentFault(error.what());
  } catch (const fp8::RankFault& fault) {
    throw EnvironmentFault(fault.what());
  } catch (const std::invalid_argument& error) {
    throw InputFault(error.what());
  }
}

SyntheticShape shape_of(const NodeSpec& spec) {
  SyntheticShape shape;
  shape.layers = spec.layers;
  shape.fp8_experts = spec.fp8_experts;
  return shape;
}

Round round_of(const stack::StackRound& from) {
  Round round;
  round.prefill = from.prefill;
  round.committed = from.committed;
  round.drafted = from.drafted;
  round.accepted = from.accepted;
  round.finish = from.finish == 0 ? Finish::kNone : from.finish == 1 ? Finish::kStop : Finish::kLength;
  round.draft_ns = from.draft_ns;
  round.verify_ns = from.verify_ns;
  round.total_ns = from.draft_ns + from.verify_ns;
  round.distinct_experts = from.distinct_experts;
  return round;
}

stack::Mode mode_of(NodeMode mode) {
  switch (mode) {
    case NodeMode::kOps: return stack::Mode::kOps;
    case NodeMode::kGraph: return stack::Mode::kGraph;
    case NodeMode::kResident: return stack::Mode::kResident;
  }
  return stack::Mode::kResident;
}

constexpr size_t kStackRows = 8;  // of a step

double mean(const std::vector<long long>& values) {
  double sum = 0;
  for (const long long value : values) sum += static_cast<double>(value);
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

// Clocks of multiprocessors count cycles; how long one lasts follows from the beginnings of the first and the last instruction on both clocks.
std::vector<NodeTraceOp> by_operation(const std::vector<stack::TraceEntry>& entries) {
  const auto both = [](const stack::TraceEntry& entry) { return entry.began != 0 && !entry.began_ns.empty(); };
  const auto first = std::find_if(entries.begin(), entries.end(), both);
  const auto last = std::find_if(entries.rbegin(), entries.rend(), both);
  if (first == entries.end() || last->began <= first->began) return {};
  const double cycle = static_cast<double>(last->began_ns.front() - first->began_ns.front()) / static_cast<double>(last->began - first->began);
  std::vector<NodeTraceOp> ops;
  for (size_t i = 0; i < entries.size(); ++i) {
    const stack::TraceEntry& entry = entries[i];
    auto op = std::find_if(ops.begin(), ops.end(), [&](const NodeTraceOp& known) { return known.op == entry.op; });
    if (op == ops.end()) op = ops.insert(ops.end(), NodeTraceOp{entry.op});
    const double slowest = entry.done.empty() ? 0 : static_cast<double>(*std::max_element(entry.done.begin(), entry.done.end()));
    // Instructions that were not run have no beginning.
    size_t next = i + 1;
    while (next < entries.size() && entries[next].began == 0) ++next;
    const double total = entry.began == 0 ? 0 : next < entries.size() ? static_cast<double>(entries[next].began - entry.began) : slowest;
    ++op->count;
    op->total_ns += std::max(0.0, total * cycle);
    op->math_ns += std::max(0.0, mean(entry.math) * cycle);
    op->busy_ns += std::max(0.0, mean(entry.done) * cycle);
    op->slowest_ns += std::max(0.0, slowest * cycle);
  }
  return ops;
}

class StackSequence final : public NodeSequence {
 public:
  StackSequence(std::unique_ptr<stack::StackSession> session, const NodeRequest& request)
      : session_(std::move(session)), mode_(mode_of(request.mode)), max_tokens_(request.max_tokens), traced_(request.trace) {
    with_faults<While::kDecoding>([&] {
      if (traced_) session_->trace();
      take(session_->run(1, mode_));
    });
  }

  void decode() override {
    with_faults<While::kDecoding>([&] {
      const size_t most = std::min<size_t>(max_tokens_, std::numeric_limits<int>::max());
      while (!session_->finished()) {
        auto made = session_->run(static_cast<int>(most), mode_);
        if (made.empty()) throw fp8::DeviceFault("the stack made no round");
        take(std::move(made));
      }
    });
    for (const stack::StackRound& round : rounds_) decoded_.rounds.push_back(round_of(round));
  }

  const NodeDecoded& decoded() const override { return decoded_; }

  std::vector<float> logits() const override {
    std::vector<float> rows = with_faults<While::kDecoding>([&] { return session_->logits(/*draft=*/false); });
    // Rows beyond those of the step hold whatever was there.
    rows.resize(rows.size() / kStackRows * (1 + rounds_.back().drafted.size()));
    return rows;
  }

  std::vector<NodeTraceOp> trace() override {
    if (!traced_) return {};
    return by_operation(with_faults<While::kDecoding>([&] { return session_->trace(); }));
  }

 private:
  void take(std::vector<stack::StackRound> made) {
    if (rounds_.empty()) rounds_ = std::move(made);
    else rounds_.insert(rounds_.end(), std::make_move_iterator(made.begin()), std::make_move_iterator(made.end()));
  }

  std::unique_ptr<stack::StackSession> session_;
  const stack::Mode mode_;
  const size_t max_tokens_;
  const bool traced_;
  std::vector<stack::StackRound> rounds_;
  NodeDecoded decoded_;
};

// The model over the first GPUs. The stack packs its own copies: nothing of what it is made from outlives the call.
std::shared_ptr<stack::Stack> make_stack(const NodeSpec& spec) {
  const SyntheticShape shape = shape_of(spec);
  const int max_context = static_cast<int>(spec.max_context);
  std::vector<stack::DraftShape> drafts;
  std::vector<std::unique_ptr<stack::WeightSource>> sources;
  std::vector<stack::Rank> ranks;
  drafts.reserve(spec.gpus);
  for (uint32_t rank = 0; rank < spec.gpus; ++rank) {
    const SyntheticShard shard{rank, spec.gpus};
    if (const char* misfit = synthetic_misfit(shape, shard)) throw InputFault(std::string("pro-synthetic: ") + misfit);
    drafts.push_back(stack::synthetic_draft_part(shape, shard));
    sources.push_back(stack::synthetic_source_part(spec.seed, shape, shard));
    stack::TargetShape target = stack::synthetic_target_part(shape, shard, max_context);
    target.shared_routing = static_cast<float>(spec.shared_routing);
    ranks.push_back({static_cast<int>(rank), std::move(target), &drafts.back(), sources.back().get()});
  }
  return stack::Stack::make_parallel(ranks);
}

class StackNode final : public NodeModel {
 public:
  explicit StackNode(const NodeSpec& spec) {
    stack_ = with_faults([&] { return make_stack(spec); });
  }

  size_t weight_bytes() const override { return stack_->weight_bytes(); }

  std::unique_ptr<NodeSequence> generate(const NodeRequest& from) override {
    stack::Request request;
    request.prompt = from.prompt;
    request.filled_context = static_cast<int>(from.filled_context);
    request.max_tokens = from.max_tokens;
    request.block_size = from.block;
    // By position from the prompt's first token: nothing stands in for the prompt.
    if (!from.proposals.empty()) {
      request.proposals.assign(from.prompt.size(), 0);
      request.proposals.insert(request.proposals.end(), from.proposals.begin(), from.proposals.end());
    }
    auto session = with_faults([&] { return stack_->open(request); });
    return std::make_unique<StackSequence>(std::move(session), from);
  }

 private:
  std::shared_ptr<stack::Stack> stack_;
};

// Decodes prompt and output in one call; a round is a token.
class ReferenceSequence final : public NodeSequence {
 public:
  ReferenceSequence(std::shared_ptr<ReferenceNode> node, const NodeRequest& request, uint32_t mixture_layers, uint32_t experts_per_token)
      : node_(std::move(node)), prompt_(request.prompt), max_tokens_(request.max_tokens), mixture_layers_(mixture_layers), experts_per_token_(experts_per_token) {}

  void decode() override {
    const ReferenceRun run = with_faults([&] { return node_->generate(prompt_, max_tokens_); });
    for (size_t i = 0; i < run.tokens.size(); ++i) {
      Round round;
      round.prefill = i == 0;
      round.committed = {run.tokens[i]};
      round.verify_ns = round.total_ns = run.step_ns.at(i);
      round.finish = i + 1 == run.tokens.size() ? Finish::kLength : Finish::kNone;
      round.distinct_experts.assign(mixture_layers_, experts_per_token_);  // one token
      decoded_.rounds.push_back(std::move(round));
    }
    decoded_.prefill_ns = run.prompt_ns + run.step_ns.at(0);
  }

  const NodeDecoded& decoded() const override { return decoded_; }
  std::vector<float> logits() const override { return {}; }
  std::vector<NodeTraceOp> trace() override { return {}; }

 private:
  std::shared_ptr<ReferenceNode> node_;
  const std::vector<int32_t> prompt_;
  const size_t max_tokens_;
  const uint32_t mixture_layers_, experts_per_token_;
  NodeDecoded decoded_;
};

class PlainNode final : public NodeModel {
 public:
  explicit PlainNode(const NodeSpec& spec) : shape_(shape_of(spec)) {
    options_.gpus.clear();
    for (uint32_t gpu = 0; gpu < spec.gpus; ++gpu) options_.gpus.push_back(static_cast<int>(gpu));
    options_.layers = spec.layers;
    options_.seed = spec.seed;
    options_.fp8_experts = spec.fp8_experts;
    options_.max_context = spec.max_context;
    options_.filled_context = spec.filled_context.value_or(0);
    node_ = with_faults([&] { return std::shared_ptr<ReferenceNode>(open_reference_node(options_)); });
  }

  size_t weight_bytes() const override { return node_->weight_bytes() / node_->ranks(); }

  std::unique_ptr<NodeSequence> generate(const NodeRequest& request) override {
    if (request.block != 1) throw InputFault("the plain reference does not speculate");
    if (request.mode == NodeMode::kResident) throw InputFault("the plain reference has no resident kernel");
    with_faults([&] { node_->configure(request.mode == NodeMode::kGraph, request.filled_context); });
    return std::make_unique<ReferenceSequence>(node_, request, shape_.layers - 1, shape_.experts_per_token);
  }

 private:
  const SyntheticShape shape_;
  ReferenceNodeOptions options_;
  std::shared_ptr<ReferenceNode> node_;
};

}  // namespace

NodeReport inspect_node() {
  NodeReport report;
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    report.lack = fp8::inspect_device().lack;
    if (report.lack.empty()) report.lack = "no GPU is visible";
    return report;
  }
  for (int gpu = 0; gpu < count; ++gpu) {
    const fp8::DeviceReport device = fp8::inspect_device(gpu);
    if (!device.lack.empty()) {
      if (gpu == 0) report.lack = device.lack;
      break;  // ranks are the first GPUs
    }
    NodeGpu found{gpu, device.name, device.memory, device.free_memory, {}};
    for (int other = 0; other < count; ++other) {
      int reaches = 0;
      if (other != gpu && cudaDeviceCanAccessPeer(&reaches, gpu, other) == cudaSuccess && reaches != 0) found.peers.push_back(other);
    }
    report.gpus.push_back(std::move(found));
  }
  return report;
}

std::shared_ptr<NodeModel> open_node(const NodeSpec& spec) {
  for (uint32_t gpu = 0; gpu < spec.gpus; ++gpu) fp8::require_device(static_cast<int>(gpu));
  if (spec.reference) return std::make_shared<PlainNode>(spec);
  return std::make_shared<StackNode>(spec);
}

NodeReadCeiling node_read_ceiling(uint32_t gpus) {
  for (uint32_t gpu = 0; gpu < gpus; ++gpu) fp8::require_device(static_cast<int>(gpu));
  NodeReadCeiling ceiling;
  ceiling.bytes_per_second.resize(gpus);
  ceiling.method = "bulk copies into shared memory, best median over ring sizes";
  std::vector<std::exception_ptr> failures(gpus);
  std::barrier together(static_cast<std::ptrdiff_t>(gpus));
  std::vector<std::thread> threads;
  for (uint32_t gpu = 0; gpu < gpus; ++gpu)
    threads.emplace_back([&, gpu] {
      together.arrive_and_wait();
      try {
        for (bench::ReadRate& rate : bench::measure_floors(static_cast<int>(gpu)).reads) {
          std::sort(rate.us.begin(), rate.us.end());
          if (rate.us.empty()) continue;
          const double seconds = rate.us[rate.us.size() / 2] / 1e6;
          ceiling.bytes_per_second[gpu] = std::max(ceiling.bytes_per_second[gpu], static_cast<double>(rate.bytes) / seconds);
        }
      } catch (...) {
        failures[gpu] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (uint32_t gpu = 0; gpu < gpus; ++gpu) {
    if (!failures[gpu]) continue;
    with_faults([&] {
      try {
        std::rethrow_exception(failures[gpu]);
      } catch (const stack::KernelFault& fault) {
        throw stack::KernelFault("the read ceiling of GPU " + std::to_string(gpu) + ": " + fault.what(), fault.code);
      } catch (const stack::DeviceError& error) {
        throw stack::DeviceError("the read ceiling of GPU " + std::to_string(gpu) + ": " + error.what());
      }
    });
  }
  return ceiling;
}

}  // namespace kilotoken
