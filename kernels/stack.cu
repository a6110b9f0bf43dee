// Sequences: what the host keeps of one on every GPU, and how its rounds are launched and read.
#include "stack.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "model.h"
#include "ranks.h"

namespace kilotoken::stack {

namespace {

class StackImpl;

// One GPU's share of a sequence.
struct Replica {
  explicit Replica(const Model& model);
  ~Replica();
  Replica(const Replica&) = delete;

  int device;
  Caches caches;
  Device<int32_t> tokens, proposals;
  Device<SessionState> state;
  DeviceList list;
  Device<long long> trace;
  Program program{};
  Mailbox* mailbox = nullptr;  // pinned
  cudaStream_t stream = nullptr;
  cudaGraphExec_t graphs[2] = {};  // verify only; draft and verify
  std::vector<Op> ops;             // of the list, for traces
};

class SessionImpl final : public StackSession {
 public:
  SessionImpl(std::shared_ptr<StackImpl> stack, const Request& request);
  std::vector<StackRound> run(int rounds, Mode mode) override;
  bool finished() const override { return finished_; }
  std::unique_ptr<StackSession> fork() const override;
  std::vector<float> logits(bool draft) const override;
  std::vector<TraceEntry> trace() override;

  // One pass of the verify part for rows start .. start + rows of the prompt, without deciding anything. `behind`: told of every instruction that is done.
  void force(uint32_t start, uint32_t rows, const int32_t* ids, const std::function<void(Op)>& behind = nullptr);

 private:
  explicit SessionImpl(std::shared_ptr<StackImpl> stack);
  void pass_by_instruction(bool draft, const std::function<void(Op)>& behind = nullptr);
  void pass_by_graph(bool draft);
  void wait(uint32_t passes = 1) const;
  [[noreturn]] void refused(const char* what, cudaError_t status, size_t rank) const;
  template <class Launch>
  void on_all(const char* what, Launch launch);
  SessionState read_state() const;
  void write_state(const SessionState& state);

  std::shared_ptr<StackImpl> stack_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  uint32_t rounds_read_ = 0;
  uint32_t prefill_passes_ = 1;
  bool finished_ = false;
};

class StackImpl final : public Stack, public std::enable_shared_from_this<StackImpl> {
 public:
  explicit StackImpl(std::vector<std::unique_ptr<Model>> ranks) : ranks(std::move(ranks)) {}

  std::unique_ptr<StackSession> open(const Request& request) override { return std::make_unique<SessionImpl>(shared_from_this(), request); }
  std::vector<float> score(const std::vector<int32_t>& ids, int chunk) override;
  States states(const std::vector<int32_t>& ids, int chunk) override;
  int blocks() const override { return first().blocks; }
  size_t weight_bytes() const override { return first().weight_bytes; }

  const Model& first() const { return *ranks.front(); }

  std::vector<std::unique_ptr<Model>> ranks;
  std::mutex busy;

 private:
  template <class Step>
  void teach(const std::vector<int32_t>& ids, int chunk, Step step);
};

// BF16 numbers of either sign between 1/4 and 1, by place.
__global__ void fill(uint16_t* to, size_t count) {
  const size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  uint32_t x = static_cast<uint32_t>(i) * 0x9e3779b9u;
  x = (x ^ x >> 16) * 0x7feb352du;
  to[i] = static_cast<uint16_t>((x >> 31) << 15 | (125 + (x >> 30 & 1)) << 7 | (x >> 8 & 0x7f));
}

void use(int device) {
  if (const cudaError_t status = cudaSetDevice(device); status != cudaSuccess) throw DeviceError("GPU " + std::to_string(device) + ": " + cudaGetErrorString(status));
}

std::string name_of(size_t rank, int device) { return "rank " + std::to_string(rank) + " on GPU " + std::to_string(device); }

// step(sequence, the first row, rows) for `chunk` rows of `ids` at a time.
template <class Step>
void StackImpl::teach(const std::vector<int32_t>& ids, int chunk, Step step) {
  need(chunk >= 1 && chunk <= kRows, "a chunk outside 1 .. 8");
  need(!ids.empty() && static_cast<int>(ids.size()) <= first().target.max_context, "a sequence that does not fit the context");
  Request request;
  request.prompt = {ids[0]};
  const auto session = open(request);
  const std::lock_guard lock(busy);
  for (size_t begin = 0; begin < ids.size(); begin += chunk) step(static_cast<SessionImpl&>(*session), begin, std::min<size_t>(chunk, ids.size() - begin));
}

std::vector<float> StackImpl::score(const std::vector<int32_t>& ids, int chunk) {
  std::vector<float> all;
  teach(ids, chunk, [&](SessionImpl& s, size_t begin, size_t rows) {
    s.force(static_cast<uint32_t>(begin), static_cast<uint32_t>(rows), ids.data() + begin);
    const std::vector<float> out = s.logits(false);
    all.insert(all.end(), out.begin(), out.begin() + static_cast<std::ptrdiff_t>(rows * first().target.vocab));
  });
  return all;
}

States StackImpl::states(const std::vector<int32_t>& ids, int chunk) {
  const Model& model = first();
  need(ranks.size() == 1 && !model.is_toy, "states of a toy, or of a model on several GPUs");
  const size_t layers = model.target.layers.size(), hidden = static_cast<size_t>(model.target.hidden), per_token = static_cast<size_t>(model.target.experts_per_token);
  States out{std::vector<std::vector<float>>(1 + 2 * layers), std::vector<std::vector<int32_t>>(layers)};
  for (std::vector<float>& r : out.residual) r.resize(ids.size() * hidden);
  for (size_t l = 0; l < layers; ++l)
    if (model.target.layers[l].mixture) out.experts[l].resize(ids.size() * per_token);
  teach(ids, chunk, [&](SessionImpl& s, size_t begin, size_t rows) {
    size_t seen = 0;  // of the residual
    s.force(static_cast<uint32_t>(begin), static_cast<uint32_t>(rows), ids.data() + begin, [&](Op op) {
      if (op == Op::kTopk) {  // between the two branches of its layer
        Choice choice;
        check(cudaMemcpy(&choice, model.work.choice.get(), sizeof choice, cudaMemcpyDeviceToHost), "the chosen experts");
        int32_t* to = out.experts[(seen - 1) / 2].data() + begin * per_token;
        for (size_t i = 0; i < rows * per_token; ++i) to[i] = static_cast<int32_t>(choice.experts[i / per_token][i % per_token].x & 0x7fffffffu);
      }
      if ((op != Op::kEmbed && op != Op::kReduce) || seen == out.residual.size()) return;  // one more sum is the draft's
      check(cudaMemcpy(out.residual[seen++].data() + begin * hidden, model.work.residual.get(), rows * hidden * sizeof(float), cudaMemcpyDeviceToHost), "the residual");
    });
  });
  return out;
}

// --- a sequence

Replica::Replica(const Model& model) : device(model.device) {
  use(device);
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  check(cudaHostAlloc(reinterpret_cast<void**>(&mailbox), sizeof(Mailbox), cudaHostAllocMapped | cudaHostAllocPortable), "pinned memory");
  std::memset(static_cast<void*>(mailbox), 0, sizeof(Mailbox));
  caches = model.make_caches();
  tokens = Device<int32_t>(static_cast<size_t>(model.target.max_context) + kRows);
  state = Device<SessionState>(1);
  int verify = 0;
  const std::vector<Instruction> instructions = model.instructions(caches, verify);
  list = DeviceList(instructions, verify);
  list.give(program);
  program.epoch = model.work.epoch.get();
  program.comm = model.comm;
  for (const Instruction& ins : instructions) ops.push_back(ins.op);
}

Replica::~Replica() {
  if (device_lost()) return;
  cudaSetDevice(device);
  for (const cudaGraphExec_t graph : graphs)
    if (graph != nullptr) cudaGraphExecDestroy(graph);
  if (stream != nullptr) cudaStreamDestroy(stream);
  if (mailbox != nullptr) cudaFreeHost(mailbox);
}

SessionImpl::SessionImpl(std::shared_ptr<StackImpl> stack) : stack_(std::move(stack)) {
  for (const auto& model : stack_->ranks) replicas_.push_back(std::make_unique<Replica>(*model));
}

SessionImpl::SessionImpl(std::shared_ptr<StackImpl> stack, const Request& request) : SessionImpl(std::move(stack)) {
  const Model& model = stack_->first();
  const TargetShape& target = model.target;
  const size_t filled = static_cast<size_t>(std::max(request.filled_context, 0));
  need(!request.prompt.empty() && filled + request.prompt.size() < static_cast<size_t>(target.max_context), "a prompt that does not fit the context");
  need(request.block_size >= 1 && request.block_size <= model.block_size, "a block size beyond the draft's");
  need(request.stop_ids.size() <= kMaxStopIds, "more than 16 stop ids");
  for (const int32_t id : request.prompt) need(id >= 0 && id < target.vocab, "a token id outside the vocabulary");
  need(stack_->ranks.size() == 1 || request.temperature == 0, "sampling on several GPUs: only greedy sequences are decoded there");
  need(request.proposals.empty() || request.rule != DecodeRule::kReject || request.temperature == 0, "assumed proposals under the rule reject");
  SessionState s{};
  s.seed = request.seed;
  s.temperature = request.temperature;
  s.top_p = request.top_p;
  s.top_k = request.top_k;
  s.rule = static_cast<Rule>(request.rule);
  s.block_size = static_cast<uint32_t>(request.block_size);
  s.max_context = static_cast<uint32_t>(target.max_context);
  s.max_tokens = request.max_tokens;
  s.start = static_cast<uint32_t>(filled);
  s.prompt_length = static_cast<uint32_t>(filled + request.prompt.size());
  std::copy(request.stop_ids.begin(), request.stop_ids.end(), s.stop_ids);
  s.stop_count = static_cast<uint32_t>(request.stop_ids.size());
  s.phase = Phase::kPrefill;
  s.length = s.prompt_length;
  s.rows = std::min<uint32_t>(kRows, static_cast<uint32_t>(request.prompt.size()));
  prefill_passes_ = (static_cast<uint32_t>(request.prompt.size()) + kRows - 1) / kRows;
  for (uint32_t i = 0; i < s.rows; ++i) s.step[i] = request.prompt[i];
  for (const LayerShape& l : target.layers) s.mixture_layers += l.mixture;
  std::vector<int32_t> proposals = request.proposals;
  if (!proposals.empty()) proposals.insert(proposals.begin(), filled, 0);
  if (!proposals.empty()) proposals.resize(static_cast<size_t>(target.max_context) + kRows, 0);
  for (const auto& r : replicas_) {
    use(r->device);
    r->proposals = Device<int32_t>(proposals);
    copy_in(r->tokens.get() + filled, request.prompt.data(), request.prompt.size() * 4, "the prompt");
    if (filled > 0) {
      for (auto* caches : {&r->caches.keys, &r->caches.values}) {
        for (Device<uint16_t>& cache : *caches) fill<<<static_cast<unsigned>((cache.size() + 255) / 256), 256>>>(cache.get(), cache.size());
      }
      check(cudaGetLastError(), "filling the context");
      check(cudaDeviceSynchronize(), "filling the context");
    }
  }
  write_state(s);
}

std::unique_ptr<StackSession> SessionImpl::fork() const {
  auto copy = std::unique_ptr<SessionImpl>(new SessionImpl(stack_));
  const auto same = [](auto& to, const auto& from) {
    if (to.size() != from.size()) to = std::decay_t<decltype(to)>(from.size());
    if (from.size() > 0) check(cudaMemcpy(to.get(), from.get(), from.bytes(), cudaMemcpyDeviceToDevice), "fork");
  };
  for (size_t r = 0; r < replicas_.size(); ++r) {
    const Replica& from = *replicas_[r];
    Replica& to = *copy->replicas_[r];
    use(from.device);
    for (size_t i = 0; i < from.caches.keys.size(); ++i) same(to.caches.keys[i], from.caches.keys[i]), same(to.caches.values[i], from.caches.values[i]);
    same(to.tokens, from.tokens);
    same(to.proposals, from.proposals);
  }
  copy->write_state(read_state());
  copy->rounds_read_ = rounds_read_;
  copy->prefill_passes_ = prefill_passes_;
  copy->finished_ = finished_;
  return copy;
}

// The same on every GPU, but for pointers.
SessionState SessionImpl::read_state() const {
  const Replica& r = *replicas_.front();
  SessionState s;
  cudaError_t status = cudaSetDevice(r.device);
  if (status == cudaSuccess) status = cudaMemcpy(&s, r.state.get(), sizeof s, cudaMemcpyDeviceToHost);
  if (status != cudaSuccess) refused("the sequence", status, 0);
  return s;
}

void SessionImpl::write_state(const SessionState& state) {
  for (const auto& r : replicas_) {
    use(r->device);
    SessionState s = state;
    s.tokens = r->tokens.get();
    s.proposals = r->proposals.get();
    copy_in(r->state.get(), &s, sizeof s, "the sequence");
  }
}

// The host's patience with kernels that record no round: a prefill is one round however long its prompt is.
constexpr auto kPassPatience = std::chrono::milliseconds(100);

// Until all GPUs are done with what is queued; a round, and with it a sign of life, comes after so many passes.
void SessionImpl::wait(uint32_t passes) const {
  std::vector<RankWait> ranks;
  for (const auto& r : replicas_) ranks.push_back({r->device, r->stream, &r->mailbox->fault.code});
  const Mailbox& mailbox = *replicas_.front()->mailbox;
  uint32_t round = rounds_read_;
  const auto progress = [&]() -> uint64_t {
    while (*static_cast<const volatile uint32_t*>(&mailbox.rounds[round % kMailboxRounds].sequence) == round + 1) ++round;
    return round;
  };
  Patience patience;
  patience.quiet += passes * kPassPatience;
  await_ranks(ranks, progress, patience);
}

// Throws what is to be said of a call that failed. It may have found what failed before it, on another GPU too: then that is said. Ranks may wait for one that will not
// come: until they have given up nothing of theirs can go.
void SessionImpl::refused(const char* what, cudaError_t status, size_t rank) const {
  cudaGetLastError();
  const Replica& r = *replicas_[rank];
  const bool own = cudaStreamQuery(r.stream) != status;
  std::string text = std::string(what) + ": " + cudaGetErrorString(status);
  if (replicas_.size() > 1) text = name_of(rank, r.device) + ": " + text;
  try {
    wait();
  } catch (const KernelFault& fault) {
    text = own ? text + "; " + fault.what() : std::string(what) + ": " + fault.what();
  } catch (const DeviceError&) {
    // It says the same.
  }
  throw DeviceError(text);
}

// A launch on every GPU.
template <class Launch>
void SessionImpl::on_all(const char* what, Launch launch) {
  for (size_t rank = 0; rank < replicas_.size(); ++rank) {
    Replica& r = *replicas_[rank];
    cudaError_t status = cudaSetDevice(r.device);
    if (status == cudaSuccess) status = launch(r);
    if (status != cudaSuccess) refused(what, status, rank);
  }
}

void SessionImpl::pass_by_instruction(bool draft, const std::function<void(Op)>& behind) {
  const Program& list = replicas_.front()->program;
  for (int i = draft ? 0 : list.verify; i < list.count; ++i) {
    on_all("a launch", [&](const Replica& r) { return launch_instruction(r.program, i, r.state.get(), r.mailbox, stack_->first().blocks, r.stream); });
    if (!behind) continue;
    wait();
    behind(replicas_.front()->ops[static_cast<size_t>(i)]);
  }
}

void SessionImpl::pass_by_graph(bool draft) {
  for (size_t rank = 0; rank < replicas_.size(); ++rank) {
    Replica& r = *replicas_[rank];
    cudaGraphExec_t& graph = r.graphs[draft];
    if (graph != nullptr) continue;
    const std::string what = "recording on " + name_of(rank, r.device);
    use(r.device);
    cudaGraph_t recorded;
    check(cudaStreamBeginCapture(r.stream, cudaStreamCaptureModeThreadLocal), what.c_str());
    for (int i = draft ? 0 : r.program.verify; i < r.program.count; ++i)
      check(launch_instruction(r.program, i, r.state.get(), r.mailbox, stack_->first().blocks, r.stream), what.c_str());
    check(cudaStreamEndCapture(r.stream, &recorded), what.c_str());
    check(cudaGraphInstantiate(&graph, recorded, 0), what.c_str());
    cudaGraphDestroy(recorded);
  }
  on_all("a launch", [&](const Replica& r) { return cudaGraphLaunch(r.graphs[draft], r.stream); });
}

std::vector<StackRound> SessionImpl::run(int rounds, Mode mode) {
  std::vector<StackRound> out;
  if (finished_ || rounds <= 0) return out;
  const std::lock_guard lock(stack_->busy);
  const uint32_t goal = rounds_read_ + static_cast<uint32_t>(rounds);
  const Mailbox& mailbox = *replicas_.front()->mailbox;
  uint32_t mixtures = 0;
  for (const LayerShape& l : stack_->first().target.layers) mixtures += l.mixture;
  const auto collect = [&] {
    while (rounds_read_ < goal) {
      const RoundRecord& r = mailbox.rounds[rounds_read_ % kMailboxRounds];
      if (r.sequence != rounds_read_ + 1) return;
      StackRound round;
      round.prefill = rounds_read_ == 0;
      round.committed.assign(r.committed, r.committed + r.committed_count);
      round.drafted.assign(r.drafted, r.drafted + r.drafted_count);
      round.accepted = r.accepted;
      round.finish = static_cast<int>(r.finish);
      if (r.began_ns != 0) {
        round.draft_ns = r.drafted_ns - r.began_ns;
        round.verify_ns = r.ended_ns - r.drafted_ns;
      }
      round.distinct_experts.assign(r.distinct_experts, r.distinct_experts + mixtures);
      finished_ = r.finish != 0;
      out.push_back(std::move(round));
      ++rounds_read_;
      if (finished_) return;
    }
  };
  while (!finished_ && rounds_read_ < goal) {
    if (mode == Mode::kResident) {
      const uint32_t some = std::min<uint32_t>(goal - rounds_read_, kMailboxRounds);
      on_all("a launch", [&](const Replica& r) { return launch_resident(r.program, r.state.get(), r.mailbox, some, stack_->first().blocks, r.stream); });
    } else {
      const SessionState s = read_state();
      const bool draft = s.phase == Phase::kDecode && s.rows > 1;
      if (mode == Mode::kGraph) pass_by_graph(draft);
      else pass_by_instruction(draft);
    }
    wait(rounds_read_ == 0 ? prefill_passes_ : 1);
    collect();
  }
  return out;
}

void SessionImpl::force(uint32_t start, uint32_t rows, const int32_t* ids, const std::function<void(Op)>& behind) {
  SessionState s = read_state();
  s.phase = Phase::kPrefill;
  s.start = start;
  s.rows = rows;
  s.prompt_length = start + rows + 1;  // never the last part: accept only moves on
  s.length = start + rows;
  for (uint32_t i = 0; i < rows; ++i) s.step[i] = ids[i];
  write_state(s);
  pass_by_instruction(false, behind);
  wait();
}

std::vector<TraceEntry> SessionImpl::trace() {
  static const char* const kNames[] = {"embed", "linear", "qkv", "window", "attend", "combine", "reduce", "swiglu", "top-k", "experts up", "experts down",
                                       "logits", "pick draft", "pick", "accept", "toy"};
  std::vector<TraceEntry> out;
  Replica& r = *replicas_.front();
  const int blocks = stack_->first().blocks;
  use(r.device);
  if (r.trace.size() == 0) {
    r.trace = Device<long long>(r.ops.size() * blocks * 4);
    r.program.trace = r.trace.get();
    return out;
  }
  std::vector<long long> clocks(r.trace.size());
  check(cudaMemcpy(clocks.data(), r.trace.get(), r.trace.bytes(), cudaMemcpyDeviceToHost), "the trace");
  const auto of_block_0 = [&](size_t i) { return clocks.data() + i * blocks * 4; };
  // Cycles of block 0's clock to a nanosecond of the common one, between the first and the last instruction that it takes part in.
  size_t first = 0, last = r.ops.size() - 1;
  while (first < last && of_block_0(first)[0] == 0) ++first;
  while (last > first && of_block_0(last)[0] == 0) --last;
  const double rate = last > first ? static_cast<double>(of_block_0(last)[0] - of_block_0(first)[0]) / static_cast<double>(of_block_0(last)[3] - of_block_0(first)[3]) : 0;
  for (size_t i = 0; i < r.ops.size(); ++i) {
    long long ns = 0;
    for (int b = 0; b < blocks; ++b) {
      const long long* c = clocks.data() + (i * blocks + b) * 4;
      if (c[0] != 0) ns = std::max(ns, c[3]);
    }
    const long long began = ns == 0 ? 0 : of_block_0(first)[0] + std::llround(rate * static_cast<double>(ns - of_block_0(first)[3]));
    TraceEntry entry{kNames[static_cast<int>(r.ops[i])], began, {}, {}, {}};
    for (int b = 0; b < blocks; ++b) {
      const long long* c = clocks.data() + (i * blocks + b) * 4;
      if (c[0] == 0) continue;  // no worker
      entry.math.push_back(c[1] - c[0]);
      entry.done.push_back(std::max(c[1], c[2]) - c[0]);
      entry.began_ns.push_back(c[3]);
    }
    out.push_back(std::move(entry));
  }
  return out;
}

std::vector<float> SessionImpl::logits(bool draft) const {
  const size_t vocab = static_cast<size_t>(stack_->first().target.vocab);
  std::vector<float> out(kRows * vocab);
  for (const auto& model : stack_->ranks) {  // each its rows of the head
    use(model->device);
    const Device<float>& from = draft ? model->work.draft_logits : model->work.logits;
    const size_t first = model->is_toy ? 0 : static_cast<size_t>(model->target.head_first), count = model->is_toy ? vocab : static_cast<size_t>(model->target.head_rows);
    check(cudaMemcpy2D(out.data() + first, vocab * 4, from.get() + first, vocab * 4, count * 4, kRows, cudaMemcpyDeviceToHost), "logits");
  }
  return out;
}

}  // namespace

std::shared_ptr<Stack> Stack::make(int device, const TargetShape& target, const DraftShape* draft, WeightSource& weights, int blocks) {
  std::vector<std::unique_ptr<Model>> ranks;
  ranks.push_back(std::make_unique<Model>(device, blocks));
  ranks.front()->load(target, draft, weights);
  return std::make_shared<StackImpl>(std::move(ranks));
}

std::shared_ptr<Stack> Stack::make_parallel(const std::vector<Rank>& parts, int blocks, bool one_hop) {
  const int count = static_cast<int>(parts.size());
  need(count >= 1 && count <= kMaxRanks, "a number of GPUs outside 1 .. 8");
  std::vector<int> devices;
  for (const Rank& part : parts) devices.push_back(part.device);
  link_gpus(devices);
  std::vector<std::unique_ptr<Model>> ranks;
  for (int r = 0; r < count; ++r) {
    ranks.push_back(std::make_unique<Model>(parts[r].device, blocks, r, count));
    ranks.back()->comm.one_hop = one_hop;
  }
  // Each GPU makes and packs its own part, all at once.
  std::vector<std::exception_ptr> failed(parts.size());
  std::vector<std::thread> loaders;
  for (int r = 0; r < count; ++r) {
    loaders.emplace_back([&, r] {
      try {
        use(parts[r].device);
        ranks[r]->load(parts[r].target, parts[r].draft, *parts[r].weights);
      } catch (const DeviceError& error) {
        failed[r] = std::make_exception_ptr(DeviceError(name_of(static_cast<size_t>(r), parts[r].device) + ": " + error.what()));
      } catch (...) {
        failed[r] = std::current_exception();
      }
    });
  }
  for (std::thread& loader : loaders) loader.join();
  for (const std::exception_ptr& failure : failed)
    if (failure) std::rethrow_exception(failure);
  for (const auto& to : ranks) {
    for (const auto& from : ranks) {
      need(from->blocks == to->blocks && from->target.vocab == to->target.vocab && from->target.layers.size() == to->target.layers.size(),
           "GPUs with parts of different models");
      to->comm.inbox[from->comm.rank] = from->work.inbox.get();
      to->comm.outbox[from->comm.rank] = from->work.outbox.get();
      to->comm.best[from->comm.rank] = from->work.best.get();
    }
  }
  return std::make_shared<StackImpl>(std::move(ranks));
}

std::shared_ptr<Stack> Stack::make_toy(int device, const ToyTables& toy, int blocks) {
  std::vector<std::unique_ptr<Model>> ranks;
  ranks.push_back(std::make_unique<Model>(device, blocks));
  ranks.front()->load_toy(toy);
  return std::make_shared<StackImpl>(std::move(ranks));
}

}  // namespace kilotoken::stack
