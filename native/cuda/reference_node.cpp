#include "reference_node.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>

#include "core/synthetic.h"
#include "native/engine/fault.h"
#include "reference/fp8/decode_rank.h"
#include "reference/fp8/device.h"
#include "reference/fp8/launch.h"
#include "reference/fp8/nccl.h"
#include "reference/fp8/rank_weights.h"
#include "reference/fp8/rendezvous.h"

namespace kilotoken {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kCommunicationBytes = uint64_t{1} << 30;  // NCCL's buffers, generously
constexpr uint64_t kMarginBytes = uint64_t{256} << 20;       // kernels' own code and stacks
constexpr auto kLoadLimit = std::chrono::seconds(120);
constexpr auto kAbortLimit = std::chrono::seconds(5);

SyntheticShape shape_of(const ReferenceNodeOptions& options) {
  SyntheticShape shape;
  shape.layers = static_cast<uint32_t>(options.layers);
  shape.fp8_experts = options.fp8_experts;
  return shape;
}

fp8::DecodeOptions decode_options(const ReferenceNodeOptions& options) {
  fp8::DecodeOptions decode;
  decode.activations = options.activations;
  decode.build = options.ordered ? fp8::Build::kOrdered : fp8::Build::kStandard;
  decode.sum = options.nccl_sum ? fp8::RankSum::kNccl : fp8::RankSum::kFixedOrder;
  decode.max_context = options.max_context;
  return decode;
}

void check_options(const ReferenceNodeOptions& o, uint32_t ranks) {
  const SyntheticShape shape = shape_of(o);
  if (o.layers == 0 || o.layers > 4096) throw InputFault("reference node: layers must be 1 to 4096");
  if (const char* misfit = fp8::rank_misfit(shape, {0, ranks})) throw InputFault("reference node of " + std::to_string(ranks) + " ranks: " + misfit);
  if (o.max_context < 2 || o.max_context > (1u << 20)) throw InputFault("reference node: the context must be 2 to 1048576");
  if (o.filled_context + 2 > o.max_context) throw InputFault("reference node: the filled context leaves no room for a prompt and a token");
  if (o.ordered && o.graph) throw InputFault("reference node: the ordered build has no graph");
  if (const char* misfit = fp8::decode_misfit(fp8::rank_plan(shape, {0, ranks}, o.max_context), decode_options(o)))
    throw InputFault(std::string("reference node: ") + misfit);
}

std::string gib(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f GiB", static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0));
  return text;
}

void check_memory(const ReferenceNodeOptions& options, uint32_t rank, uint32_t ranks, int gpu) {
  const fp8::DeviceReport device = fp8::inspect_device(gpu);
  if (!device.lack.empty()) throw EnvironmentFault(device.lack);
  const ReferenceNeed need = reference_need(options, ranks);
  if (need.total() <= device.free_memory) return;
  const size_t fit = reference_layers_that_fit(options, ranks, device.free_memory);
  throw EnvironmentFault("rank " + std::to_string(rank) + " of " + std::to_string(ranks) + " needs " + gib(need.total()) + " on GPU " + std::to_string(gpu) + " (weights " +
                         gib(need.weights) + ", cache and scratch " + gib(need.cache_and_scratch) + ", communication " + gib(need.communication) + "); " +
                         gib(device.free_memory) + " of " + gib(device.memory) + " are free" +
                         (fit > 0 ? "; " + std::to_string(fit) + " of " + std::to_string(options.layers) + " layers would fit" : ""));
}

// All ranks must have been asked for the same: FNV-1a over what was asked.
uint64_t purpose_of(const ReferenceNodeOptions& o) {
  uint64_t digest = 14695981039346656037ull;
  const auto mix = [&](uint64_t value) {
    for (int byte = 0; byte < 8; ++byte) digest = (digest ^ (value >> (8 * byte) & 0xff)) * 1099511628211ull;
  };
  for (const uint64_t value : {uint64_t{o.layers}, o.seed, uint64_t{o.fp8_experts}, uint64_t{o.max_context}, uint64_t{o.filled_context},
                               uint64_t{o.activations == Activations::kFp8}, uint64_t{o.ordered}, uint64_t{o.nccl_sum}, uint64_t{o.graph}})
    mix(value);
  return digest;
}

// The first thing that went wrong, whichever thread saw it.
class Fate {
 public:
  void fail(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (failed_) return;
    error_ = error;
    failed_ = true;
  }
  bool failed() const { return failed_; }
  void rethrow() const {
    const std::lock_guard lock(mutex_);
    std::rethrow_exception(error_);
  }

 private:
  mutable std::mutex mutex_;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

// Thrown in a rank whose fate another one has met.
struct Stopped : std::runtime_error {
  Stopped() : std::runtime_error("another rank failed") {}
};

// What the threads of the ranks share with the node. It outlives a thread that is stuck in a call that never returns.
struct Core {
  struct Local {
    uint32_t rank = 0;
    int gpu = 0;
    fp8::NcclComm comm = nullptr;  // written under `mutex`
    std::unique_ptr<fp8::NcclCollectives> collectives;
    std::unique_ptr<fp8::DecodeRank> decode;  // made and destroyed in the rank's thread
    bool busy = false;                        // with the job; under `mutex`
  };
  using Job = std::function<void(Local&)>;

  std::vector<Local> locals;
  Fate fate;
  std::atomic<uint64_t> progress{0};  // grows whenever a rank finishes something

  std::mutex mutex;
  std::condition_variable changed;
  Job job;
  uint64_t job_number = 0;
  size_t running = 0;
  bool stopping = false;
};

std::string name_of(const Core::Local& local) { return "rank " + std::to_string(local.rank) + " on GPU " + std::to_string(local.gpu); }

// What went wrong in a rank's thread, by the rank's name where there are several.
std::exception_ptr named(const std::exception_ptr& error, const Core::Local& local, bool alone) {
  if (alone) return error;
  try {
    std::rethrow_exception(error);
  } catch (const fp8::DeviceLack& lack) {
    return std::make_exception_ptr(fp8::DeviceLack(name_of(local) + ": " + lack.what()));
  } catch (const fp8::DeviceFault& fault) {
    return std::make_exception_ptr(fp8::DeviceFault(name_of(local) + ": " + fault.what()));
  } catch (...) {
    return error;
  }
}

void serve(const std::shared_ptr<Core>& core, size_t index, bool alone) {
  Core::Local& local = core->locals[index];
  uint64_t seen = 0;
  for (;;) {
    Core::Job job;
    {
      std::unique_lock lock(core->mutex);
      core->changed.wait(lock, [&] { return core->stopping || core->job_number != seen; });
      if (core->job_number == seen) break;
      seen = core->job_number;
      job = core->job;
    }
    try {
      fp8::check(cudaSetDevice(local.gpu), "choosing a GPU");
      job(local);
    } catch (...) {
      core->fate.fail(named(std::current_exception(), local, alone));
    }
    {
      const std::lock_guard lock(core->mutex);
      local.busy = false;
      --core->running;
    }
    core->changed.notify_all();
  }
}

class Node final : public ReferenceNode {
 public:
  explicit Node(const ReferenceNodeOptions& options) : options_(options), shape_(shape_of(options)), core_(std::make_shared<Core>()) {
    std::optional<fp8::Launch> launch;
    if (options.launched) launch = fp8::read_launch();
    ranks_ = launch ? launch->ranks : static_cast<uint32_t>(options.gpus.size());
    if (ranks_ == 0) throw InputFault("reference node: no GPU was named");
    check_options(options, ranks_);
    core_->locals.resize(launch ? 1 : ranks_);
    for (size_t i = 0; i < core_->locals.size(); ++i) {
      core_->locals[i].rank = launch ? launch->rank : static_cast<uint32_t>(i);
      core_->locals[i].gpu = launch ? gpu_of(*launch) : options.gpus[i];
    }
    for (size_t i = 0; i < core_->locals.size(); ++i)
      for (size_t j = 0; j < i; ++j)
        if (core_->locals[i].gpu == core_->locals[j].gpu) throw InputFault("reference node: GPU " + std::to_string(core_->locals[i].gpu) + " was named twice");
    for (const Core::Local& local : core_->locals) check_memory(options, local.rank, ranks_, local.gpu);
    begin(launch);
  }

  ~Node() override {
    if (!lost_ && !core_->fate.failed()) {
      try {
        const std::vector<fp8::NcclComm> made = comms();
        for (Core::Local& local : core_->locals) local.comm = nullptr;  // no longer looked at
        run(
            [core = core_, made](Core::Local& local) {
              local.decode.reset();
              if (!made.empty()) fp8::nccl().destroy(made[static_cast<size_t>(&local - core->locals.data())]);
            },
            options_.step_limit);
      } catch (...) {
        // Nobody is left to tell.
      }
    }
    {
      const std::lock_guard lock(core_->mutex);
      core_->stopping = true;
    }
    core_->changed.notify_all();
    for (std::thread& thread : threads_) lost_ ? thread.detach() : thread.join();
  }

  ReferenceRun generate(std::span<const int32_t> prompt, size_t max_tokens) override {
    if (prompt.empty() || max_tokens == 0) throw InputFault("reference node: a prompt and at least one token are needed");
    for (const int32_t id : prompt)
      if (id < 0 || static_cast<uint32_t>(id) >= shape_.vocab) throw InputFault("reference node: token " + std::to_string(id) + " is outside the vocabulary");
    if (options_.filled_context + prompt.size() + max_tokens - 1 > options_.max_context)
      throw InputFault("reference node: " + std::to_string(options_.filled_context) + " + " + std::to_string(prompt.size()) + " + " + std::to_string(max_tokens) +
                       " positions exceed the context of " + std::to_string(options_.max_context));
    // Shared with the ranks, since one of them may be left behind.
    const auto ids = std::make_shared<const std::vector<int32_t>>(prompt.begin(), prompt.end());
    const auto result = std::make_shared<ReferenceRun>();
    const auto core = core_;
    const ReferenceNodeOptions options = options_;
    run(
        [core, ids, result, options, max_tokens](Core::Local& local) {
          const bool first = &local == &core->locals.front();
          fp8::DecodeRank& decode = *local.decode;
          decode.seek(options.filled_context);
          uint64_t prompt_ns = 0;
          for (size_t step = 0; step + 1 < ids->size() + max_tokens; ++step) {
            if (step < ids->size()) decode.feed((*ids)[step]);
            const auto start = Clock::now();
            decode.launch(options.graph);
            wait(*core, decode);
            const uint64_t ns = static_cast<uint64_t>(std::chrono::nanoseconds(Clock::now() - start).count());
            if (first && options.keep_rows) result->rows.push_back(decode.logits()), result->experts.push_back(decode.experts());
            if (step + 1 < ids->size()) {
              prompt_ns += ns;
              continue;
            }
            if (!first) continue;
            result->tokens.push_back(decode.token());
            result->step_ns.push_back(ns);
          }
          if (first) result->prompt_ns = prompt_ns;
        },
        options_.step_limit);
    return *result;
  }

  void configure(bool graph, size_t filled_context) override {
    ReferenceNodeOptions next = options_;
    next.graph = graph;
    next.filled_context = filled_context;
    check_options(next, ranks_);
    if (filled_context != options_.filled_context) {
      run([next](Core::Local& local) { local.decode->fill_context(next.seed, next.filled_context); }, next.step_limit);
    }
    // On all ranks before any launches it: a rank that makes its graph must not find another one waiting inside a collective.
    if (graph) run([](Core::Local& local) { local.decode->capture(); }, next.step_limit);
    options_ = next;
  }

  uint32_t ranks() const override { return ranks_; }
  uint64_t weight_bytes() const override {
    uint64_t bytes = 0;
    for (uint32_t rank = 0; rank < ranks_; ++rank) bytes += fp8::rank_bytes(shape_, {rank, ranks_}).resident;
    return bytes;
  }
  uint64_t step_weight_bytes() const override { return fp8::rank_bytes(shape_, {0, ranks_}).step; }
  double load_seconds() const override { return load_seconds_; }
  size_t launches() const override { return launches_; }
  std::string collectives() const override {
    if (ranks_ == 1) return "none";
    return "NCCL " + fp8::nccl_version_text(fp8::nccl().version) + (options_.nccl_sum ? ", ncclSum" : ", gathered and added in order of rank");
  }

  std::vector<std::pair<std::string, double>> profile() override {
    const auto times = std::make_shared<std::vector<std::pair<std::string, double>>>();
    const auto core = core_;
    run(
        [core, times, at = options_.filled_context](Core::Local& local) {
          fp8::DecodeRank& decode = *local.decode;
          decode.seek(at);
          const auto own = decode.profile([&] { wait(*core, decode); });
          if (&local == &core->locals.front()) times->assign(own.begin(), own.end());
        },
        options_.step_limit);
    return *times;
  }

 private:
  static int gpu_of(const fp8::Launch& launch) {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
      fp8::require_device();
      throw EnvironmentFault("no CUDA device");
    }
    return count == 1 ? 0 : static_cast<int>(launch.local_rank);  // one: the launcher has shown each process its own
  }

  // Until the rank's step is done, or another rank has failed.
  static void wait(Core& core, fp8::DecodeRank& decode) {
    while (!decode.done())
      if (core.fate.failed()) throw Stopped();
    ++core.progress;
  }

  void begin(const std::optional<fp8::Launch>& launch) {
    const auto start = Clock::now();
    fp8::NcclId id{};
    if (ranks_ > 1) {
      const fp8::Nccl& library = fp8::nccl();
      const bool gives = !launch || launch->rank == 0;
      if (gives) fp8::check_nccl(library.get_unique_id(&id), "making an id");
      if (launch) {
        fp8::MeetingGift gift{};
        static_assert(sizeof id.bytes == sizeof gift);
        std::memcpy(gift.data(), id.bytes, gift.size());
        meeting_ = fp8::Rendezvous::meet({launch->address, launch->port, launch->rank, launch->ranks, purpose_of(options_), options_.meet_limit}, gift);
        std::memcpy(id.bytes, gift.data(), gift.size());
      }
    }
    for (size_t i = 0; i < core_->locals.size(); ++i) threads_.emplace_back(serve, core_, i, ranks_ == 1);
    try {
      connect(id);
    } catch (...) {
      {
        const std::lock_guard lock(core_->mutex);
        core_->stopping = true;
      }
      core_->changed.notify_all();
      for (std::thread& thread : threads_) lost_ ? thread.detach() : thread.join();
      throw;
    }
    load_seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
  }

  void connect(const fp8::NcclId& id) {
    const auto core = core_;
    const ReferenceNodeOptions options = options_;
    const SyntheticShape shape = shape_;
    const uint32_t ranks = ranks_;
    const auto ropes = std::make_shared<const fp8::RopeTables>(fp8::rope_tables(fp8::rank_plan(shape, {0, ranks}, options.max_context), options.max_context));
    if (ranks > 1) {
      run(
          [core, id, ranks](Core::Local& local) {
            fp8::NcclComm comm = nullptr;
            fp8::check_nccl(fp8::nccl().init_rank(&comm, static_cast<int>(ranks), id, static_cast<int>(local.rank)), "connecting the ranks");
            const std::lock_guard lock(core->mutex);
            local.comm = comm;
            local.collectives = std::make_unique<fp8::NcclCollectives>(comm);
          },
          options.meet_limit);
    }
    run(
        [shape, options, ranks, ropes](Core::Local& local) {
          local.decode = std::make_unique<fp8::DecodeRank>(shape, SyntheticShard{local.rank, ranks}, options.seed, decode_options(options), *ropes, local.collectives.get());
          local.decode->load_kernels();
          local.decode->fill_context(options.seed, options.filled_context);
        },
        kLoadLimit);
    // A step with the others: NCCL connects on first use, before it can be captured.
    run(
        [core, at = options.filled_context](Core::Local& local) {
          local.decode->seek(at);
          local.decode->launch(false);
          wait(*core, *local.decode);
        },
        options.meet_limit);
    launches_ = core_->locals.front().decode->launches();
    configure(options.graph, options.filled_context);
  }

  // Runs `job` on every local rank and watches over it: a failure of one, a lost process, an error of NCCL's own, or `limit` without progress ends it
  // everywhere, and is thrown.
  void run(Core::Job job, std::chrono::milliseconds limit) {
    if (core_->fate.failed()) raise();
    {
      const std::lock_guard lock(core_->mutex);
      core_->job = std::move(job);
      core_->running = core_->locals.size();
      for (Core::Local& local : core_->locals) local.busy = true;
      ++core_->job_number;
    }
    core_->changed.notify_all();
    uint64_t seen = core_->progress;
    auto last = Clock::now();
    bool ended = false;
    while (!ended && !core_->fate.failed()) {
      std::unique_lock lock(core_->mutex);
      ended = core_->changed.wait_for(lock, std::chrono::milliseconds(5), [&] { return core_->running == 0; });
      lock.unlock();
      if (core_->progress != seen) seen = core_->progress, last = Clock::now();
      if (!ended && Clock::now() - last > limit)
        core_->fate.fail(std::make_exception_ptr(fp8::DeviceFault(still_busy() + " did not get on within " + std::to_string(limit.count() / 1000) + " s")));
      look_at_others();
    }
    if (!core_->fate.failed()) return;
    stop();
    raise();
  }

  std::string still_busy() const {
    const std::lock_guard lock(core_->mutex);
    std::string names;
    for (const Core::Local& local : core_->locals)
      if (local.busy) names += (names.empty() ? "" : ", ") + name_of(local);
    return names;
  }

  void look_at_others() {
    if (meeting_ != nullptr)
      if (const std::string trouble = meeting_->trouble(); !trouble.empty()) core_->fate.fail(std::make_exception_ptr(fp8::RankFault(trouble)));
    for (const fp8::NcclComm comm : comms()) {
      int result = fp8::kNcclSuccess;
      if (fp8::nccl().async_error(comm, &result) != fp8::kNcclSuccess || (result != fp8::kNcclSuccess && result != fp8::kNcclInProgress)) {
        try {
          fp8::check_nccl(result == fp8::kNcclSuccess ? 1 : result, "talking to the other ranks", comm);
        } catch (...) {
          core_->fate.fail(std::current_exception());
        }
      }
    }
  }

  std::vector<fp8::NcclComm> comms() const {
    const std::lock_guard lock(core_->mutex);
    std::vector<fp8::NcclComm> made;
    for (const Core::Local& local : core_->locals)
      if (local.comm != nullptr) made.push_back(local.comm);
    return made;
  }

  // After a failure: tells the other processes, ends collectives that wait for a rank that will not come, and gives the threads a moment to notice.
  void stop() {
    if (meeting_ != nullptr) {
      try {
        core_->fate.rethrow();
      } catch (const std::exception& error) {
        meeting_->tell(error.what());
      }
    }
    const std::vector<fp8::NcclComm> made = comms();
    const auto open = std::make_shared<std::atomic<size_t>>(made.size());
    for (const fp8::NcclComm comm : made)
      std::thread([comm, open] {
        fp8::nccl().abort(comm);
        --*open;
      }).detach();
    const auto deadline = Clock::now() + kAbortLimit;
    while (*open > 0 && Clock::now() < deadline) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::unique_lock lock(core_->mutex);
    const bool quiet = core_->changed.wait_until(lock, Clock::now() + std::chrono::seconds(1), [&] { return core_->running == 0; });
    if (!quiet || !made.empty()) fp8::lose_device();  // memory is given back by the end of the process
    lost_ = !quiet;
  }

  [[noreturn]] void raise() const {
    try {
      core_->fate.rethrow();
    } catch (const fp8::RankFault& fault) {
      throw EnvironmentFault(fault.what());
    }
    throw std::logic_error("a failure without an error");
  }

  ReferenceNodeOptions options_;
  const SyntheticShape shape_;
  const std::shared_ptr<Core> core_;
  uint32_t ranks_ = 1;
  std::unique_ptr<fp8::Rendezvous> meeting_;
  std::vector<std::thread> threads_;
  bool lost_ = false;  // a thread did not come back
  double load_seconds_ = 0;
  size_t launches_ = 0;
};

}  // namespace

ReferenceNeed reference_need(const ReferenceNodeOptions& options, uint32_t ranks) {
  const SyntheticShape shape = shape_of(options);
  ReferenceNeed need;
  need.weights = fp8::rank_bytes(shape, {0, ranks}).allocated;
  need.cache_and_scratch = fp8::decode_bytes(shape, {0, ranks}, decode_options(options)) + kMarginBytes;
  need.communication = ranks > 1 ? kCommunicationBytes : 0;
  return need;
}

size_t reference_layers_that_fit(ReferenceNodeOptions options, uint32_t ranks, uint64_t bytes) {
  for (; options.layers > 0; --options.layers)
    if (reference_need(options, ranks).total() <= bytes) return options.layers;
  return 0;
}

std::unique_ptr<ReferenceNode> open_reference_node(const ReferenceNodeOptions& options) {
  try {
    return std::make_unique<Node>(options);
  } catch (const fp8::RankFault& fault) {
    throw EnvironmentFault(fault.what());
  }
}

}  // namespace kilotoken
