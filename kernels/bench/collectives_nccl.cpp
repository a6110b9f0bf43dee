// ncclAllReduce at the size of the residual, beside the in-kernel one: a thread and a stream a GPU, calls back to back in place, eager and as a CUDA graph. NVLink
// multicast stays off (reference/fp8/nccl.h). A rank that fails or does not answer in time takes the others along: a line instead of numbers, never a hang.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>

#include <cuda_runtime.h>

#include "collectives.h"
#include "reference/fp8/nccl.h"

namespace kilotoken::bench {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kValues = size_t{kCollectiveRows} * kCollectiveHidden;
constexpr int kBatch = 200, kBatches = 20, kWarmCalls = 20;
constexpr auto kPatience = std::chrono::seconds(20);

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw Failure(std::string(what) + ": " + cudaGetErrorString(status));
}

// Where the threads of the ranks meet. Outlives a thread that is stuck inside NCCL.
class Meeting {
 public:
  explicit Meeting(int ranks) : ranks_(ranks) {}

  void fail(const std::string& text) {
    const std::lock_guard lock(mutex_);
    if (failure_.empty()) failure_ = text;
    changed_.notify_all();
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    ++left_;
    changed_.notify_all();
  }
  void look() {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) throw Failure(failure_);
  }
  // All ranks are here; false where one of them says no.
  bool meet(bool yes = true) {
    std::unique_lock lock(mutex_);
    all_yes_ = (here_ == 0 ? true : all_yes_) && yes;
    const int round = round_;
    if (++here_ == ranks_) {
      here_ = 0;
      agreed_ = all_yes_;
      ++round_;
      changed_.notify_all();
    } else if (!changed_.wait_for(lock, kPatience, [&] { return round_ != round || !failure_.empty(); })) {
      throw Failure("a rank of NCCL did not come within 20 s");
    }
    if (round_ == round) throw Failure(failure_);
    return agreed_;
  }
  // Whether every thread has ended; then the failure, or nothing, is final.
  bool ended(std::string& failure) {
    std::unique_lock lock(mutex_);
    const bool all = changed_.wait_for(lock, 3 * kPatience, [&] { return left_ == ranks_; });
    failure = failure_;
    return all;
  }

 private:
  const int ranks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string failure_;
  int here_ = 0, left_ = 0, round_ = 0;
  bool all_yes_ = true, agreed_ = true;
};

// Shared by the threads; each writes its own entry.
struct Shared {
  explicit Shared(int ranks) : meeting(ranks), eager(ranks), graph(ranks), graph_lack(ranks) {}
  Meeting meeting;
  fp8::NcclId id{};
  std::vector<std::vector<double>> eager, graph;
  std::vector<std::string> graph_lack;
};

class Rank {
 public:
  Rank(Shared& shared, int rank, int ranks) : shared_(shared), rank_(rank), ranks_(ranks) {}
  ~Rank() {
    // Of a communicator with calls under way only abort comes back.
    if (comm_ != nullptr) done_ ? fp8::nccl().destroy(comm_) : fp8::nccl().abort(comm_);
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
    cudaFree(x_);
  }
  Rank(const Rank&) = delete;

  void work() {
    check(cudaSetDevice(rank_), "the GPU");
    check(cudaMalloc(reinterpret_cast<void**>(&x_), kValues * sizeof(float)), "memory");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
    check(cudaEventCreate(&begin_), "an event");
    check(cudaEventCreate(&end_), "an event");
    shared_.meeting.meet();
    fp8::check_nccl(fp8::nccl().init_rank(&comm_, ranks_, shared_.id, rank_), "connecting the GPUs");
    shared_.meeting.meet();
    check_sum();
    // Zeros stay what they are however often they are added.
    check(cudaMemsetAsync(x_, 0, kValues * sizeof(float), stream_), "memory");
    time(shared_.eager[rank_], [&] { calls(kBatch); });
    time_graph();
    shared_.meeting.meet();
    done_ = true;
  }

 private:
  void calls(int count) {
    for (int i = 0; i < count; ++i)
      fp8::check_nccl(fp8::nccl().all_reduce(x_, x_, kValues, fp8::kNcclFloat32, fp8::kNcclSum, comm_, stream_), "summing", comm_);
  }

  void await() {
    check(cudaEventRecord(end_, stream_), "an event");
    const auto until = Clock::now() + kPatience;
    for (;;) {
      const cudaError_t status = cudaEventQuery(end_);
      if (status == cudaSuccess) return;
      if (status != cudaErrorNotReady) check(status, "NCCL's kernels");
      shared_.meeting.look();
      if (Clock::now() > until) throw Failure("NCCL's kernels did not end within 20 s");
      std::this_thread::yield();
    }
  }

  // Within what n - 1 roundings of binary32 may leave; the order of the sum is NCCL's own.
  void check_sum() {
    std::vector<double> sum(kValues), size(kValues);
    for (int r = 0; r < ranks_; ++r) {
      const std::vector<float> base = collective_base(Data::kRandom, r, ranks_);
      for (size_t i = 0; i < kValues; ++i) sum[i] += base[i], size[i] += std::fabs(base[i]);
      if (r == rank_) check(cudaMemcpyAsync(x_, base.data(), kValues * sizeof(float), cudaMemcpyHostToDevice, stream_), "summands");
    }
    calls(1);
    await();
    std::vector<float> made(kValues);
    check(cudaMemcpy(made.data(), x_, kValues * sizeof(float), cudaMemcpyDeviceToHost), "sums");
    for (size_t i = 0; i < kValues; ++i)
      if (!(std::fabs(made[i] - sum[i]) <= ranks_ * 0x1p-23 * size[i])) throw Failure("NCCL's sum is off at place " + std::to_string(i));
  }

  template <class Issue>
  void time(std::vector<double>& us, Issue issue) {
    calls(kWarmCalls);
    await();
    for (int batch = -1; batch < kBatches; ++batch) {
      shared_.meeting.meet();
      check(cudaEventRecord(begin_, stream_), "an event");
      issue();
      await();
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin_, end_), "an event");
      if (batch >= 0) us.push_back(ms * 1e3 / kBatch);
    }
  }

  void time_graph() {
    cudaGraph_t recorded = nullptr;
    cudaGraphExec_t graph = nullptr;
    std::string& lack = shared_.graph_lack[rank_];
    try {
      check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording");
      calls(kBatch);
      check(cudaStreamEndCapture(stream_, &recorded), "recording");
      check(cudaGraphInstantiate(&graph, recorded, 0), "recording");
    } catch (const std::exception& error) {
      lack = error.what();
      if (recorded == nullptr) cudaStreamEndCapture(stream_, &recorded);
      cudaGetLastError();
    }
    if (shared_.meeting.meet(lack.empty())) time(shared_.graph[rank_], [&] { check(cudaGraphLaunch(graph, stream_), "a graph"); });
    if (graph != nullptr) cudaGraphExecDestroy(graph);
    if (recorded != nullptr) cudaGraphDestroy(recorded);
  }

  Shared& shared_;
  const int rank_, ranks_;
  float* x_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  fp8::NcclComm comm_ = nullptr;
  bool done_ = false;
};

}  // namespace

NcclAllReduce measure_nccl(int gpus) {
  NcclAllReduce out;
  out.batch = kBatch;
  const auto shared = std::make_shared<Shared>(gpus);
  try {
    out.version = fp8::nccl_version_text(fp8::nccl().version);
    check(cudaSetDevice(0), "the GPU");
    fp8::check_nccl(fp8::nccl().get_unique_id(&shared->id), "making an id");
  } catch (const std::exception& error) {
    out.lack = error.what();
    return out;
  }
  std::vector<std::thread> threads;
  for (int r = 0; r < gpus; ++r)
    threads.emplace_back([shared, r, gpus] {
      try {
        Rank(*shared, r, gpus).work();
      } catch (const std::exception& error) {
        shared->meeting.fail(error.what());
      }
      shared->meeting.leave();
    });
  const bool ended = shared->meeting.ended(out.lack);
  for (std::thread& thread : threads) ended ? thread.join() : thread.detach();
  if (!ended && out.lack.empty()) out.lack = "NCCL did not answer within a minute";
  if (!out.lack.empty()) return out;
  for (const std::string& lack : shared->graph_lack)
    if (out.graph_lack.empty()) out.graph_lack = lack;
  for (int r = 0; r < gpus; ++r) out.times.push_back({"eager", r, std::move(shared->eager[r])});
  if (out.graph_lack.empty())
    for (int r = 0; r < gpus; ++r) out.times.push_back({"graph", r, std::move(shared->graph[r])});
  return out;
}

}  // namespace kilotoken::bench
