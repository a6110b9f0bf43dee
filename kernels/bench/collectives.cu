#include "collectives.h"

#include <algorithm>
#include <memory>
#include <numeric>

#include <cuda_runtime.h>

#include "collectives_call.cuh"
#include "kernels/device_memory.h"

namespace kilotoken::bench {

namespace {

using stack::check;
using stack::Comm;
using stack::Device;
using stack::DeviceError;
using stack::KernelFault;
using stack::Mailbox;

constexpr int kGroups = kCollectiveHidden / stack::kQuantGroup;  // one block each
constexpr int kLaunches = 4, kLineWords = 32;  // a counter has a line of 128 bytes to itself

enum class Arrangement { kChain, kStep, kBarrier };

const char* name_of(Arrangement arrangement) {
  switch (arrangement) {
    case Arrangement::kChain: return "chain";
    case Arrangement::kStep: return "step";
    case Arrangement::kBarrier: break;
  }
  return "barrier";
}

struct Span {
  uint64_t begin, end;
};

struct CallsArgs {
  Comm comm;
  Mailbox* mailbox;
  const float* base;  // [8][6144]
  float* sums;        // [8][6144]: of the last call
  uint32_t* counter;  // where blocks meet
  uint32_t* cycles;   // [calls], of block 0
  Span* spans;        // [blocks]
  uint32_t warm, calls;
  uint32_t marks;     // 1: they alternate; 0: the mistake
};

// A warp holds 128 columns of one row, as in the residual (kernels/ops/residual.cuh); rows are as many as the launch has warps.
template <Arrangement kArrangement>
__global__ void __launch_bounds__(stack::kMathThreads, 1) calls_kernel(const __grid_constant__ CallsArgs args) {
  using namespace stack;
  extern __shared__ __align__(128) uint8_t memory[];
  Place b{*reinterpret_cast<Shared*>(memory), nullptr, args.mailbox, 0, 0, threadIdx.x};
  const int row = threadIdx.x / 32, column = threadIdx.x % 32 * 4, group = blockIdx.x;
  const int at = row * kCollectiveHidden + group * kQuantGroup + column;
  const float4 base = *reinterpret_cast<const float4*>(args.base + at);
  const bool clocked = blockIdx.x == 0 && threadIdx.x == 0;
  float4 mine = base, sum{};
  long long before = 0;
  uint64_t begin = 0;
#pragma unroll 1
  for (uint32_t call = 0; call < args.warm + args.calls; ++call) {
    b.at = static_cast<int>(call);  // for faults, which ask what stands there
    if (threadIdx.x == 0) b.shared.fetched[static_cast<int>(Role::kMath)][call % kFetched].number = b.at;
    if (kArrangement != Arrangement::kBarrier) {
      sum = repeat_call(args.comm, b, call, args.marks, group, kGroups, row * kQuantGroup + column, base, mine);
    }
    if (kArrangement != Arrangement::kChain) {
      __syncthreads();
      if (threadIdx.x == 0) {
        ptx::add_release(args.counter, 1);
        ptx::wait_counter(args.counter, (call + 1) * gridDim.x, b.fault(), ptx::Wait::kPrevious, call);
      }
      __syncthreads();
    }
    if (clocked) {
      const long long now = clock64();
      if (call >= args.warm) args.cycles[call - args.warm] = static_cast<uint32_t>(now - before);
      before = now;
    }
    if (threadIdx.x == 0 && call + 1 == args.warm) begin = ptx::nanoseconds();
  }
  if (threadIdx.x == 0) args.spans[blockIdx.x] = {begin, ptx::nanoseconds()};
  *reinterpret_cast<float4*>(args.sums + at) = sum;
}

const void* kernel_of(Arrangement arrangement) {
  switch (arrangement) {
    case Arrangement::kChain: return reinterpret_cast<const void*>(calls_kernel<Arrangement::kChain>);
    case Arrangement::kStep: return reinterpret_cast<const void*>(calls_kernel<Arrangement::kStep>);
    case Arrangement::kBarrier: break;
  }
  return reinterpret_cast<const void*>(calls_kernel<Arrangement::kBarrier>);
}

// Pinned, so that its fault can be read after a kernel has stopped itself.
class PinnedMailbox {
 public:
  PinnedMailbox() { check(cudaHostAlloc(reinterpret_cast<void**>(&mailbox_), sizeof(Mailbox), cudaHostAllocMapped | cudaHostAllocPortable), "pinned memory"); }
  ~PinnedMailbox() { cudaFreeHost(mailbox_); }
  PinnedMailbox(const PinnedMailbox&) = delete;
  Mailbox* get() const { return mailbox_; }

 private:
  Mailbox* mailbox_ = nullptr;
};

// What one GPU receives and keeps. Current device: its own.
struct Gpu {
  explicit Gpu(int device, int gpus)
      : device(device),
        inbox(size_t{2} * kGroups * stack::kGroupFloats * gpus),
        outbox(size_t{kGroups} * stack::kGroupFloats),
        base(size_t{kCollectiveRows} * kCollectiveHidden),
        sums(base.size()),
        counter(kLineWords),
        cycles(kCollectiveCalls),
        spans(kGroups) {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  }
  ~Gpu() {
    cudaSetDevice(device);
    cudaStreamDestroy(stream);
  }
  Gpu(const Gpu&) = delete;

  const int device;
  Device<float> inbox, outbox, base, sums;
  Device<uint32_t> counter, cycles;
  Device<Span> spans;
  PinnedMailbox mailbox;
  cudaStream_t stream = nullptr;
};

void use(int device) { check(cudaSetDevice(device), "the GPU"); }

class Ring {
 public:
  explicit Ring(int gpus) {
    enable_links(gpus);
    for (int g = 0; g < gpus; ++g) {
      use(g);
      gpus_.push_back(std::make_unique<Gpu>(g, gpus));
      for (const Arrangement arrangement : {Arrangement::kChain, Arrangement::kStep, Arrangement::kBarrier}) {
        const void* kernel = kernel_of(arrangement);
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(stack::Shared)), "shared memory");
        cudaFuncAttributes attributes;  // loads the code: nothing may be loaded while a kernel spins
        check(cudaFuncGetAttributes(&attributes, kernel), "the code");
      }
    }
    order_.resize(gpus);
    std::iota(order_.begin(), order_.end(), 0);
  }

  int ranks() const { return static_cast<int>(gpus_.size()); }

  void give(const std::vector<std::vector<float>>& base) {
    for (int g = 0; g < ranks(); ++g) {
      use(g);
      stack::copy_in(gpus_[g]->base.get(), base[g].data(), gpus_[g]->base.bytes(), "summands");
    }
  }

  // Every launch begins with empty places, so that each one of `calls` has the same sums.
  void run(Arrangement arrangement, bool one_hop, int rows, uint32_t warm, uint32_t calls, uint32_t marks = 1) {
    for (const auto& gpu : gpus_) {
      use(gpu->device);
      gpu->mailbox.get()->fault = {};
      check(cudaMemsetAsync(gpu->inbox.get(), 0, gpu->inbox.bytes(), gpu->stream), "places");
      check(cudaMemsetAsync(gpu->outbox.get(), 0, gpu->outbox.bytes(), gpu->stream), "places");
      check(cudaMemsetAsync(gpu->counter.get(), 0, gpu->counter.bytes(), gpu->stream), "a counter");
      check(cudaStreamSynchronize(gpu->stream), "places");
    }
    for (const auto& gpu : gpus_) {
      use(gpu->device);
      CallsArgs args{};
      args.comm.rank = order_[gpu->device];
      args.comm.ranks = ranks();
      args.comm.one_hop = one_hop;
      for (const auto& other : gpus_) {
        args.comm.inbox[order_[other->device]] = other->inbox.get();
        args.comm.outbox[order_[other->device]] = other->outbox.get();
      }
      args.mailbox = gpu->mailbox.get();
      args.base = gpu->base.get();
      args.sums = gpu->sums.get();
      args.counter = gpu->counter.get();
      args.cycles = gpu->cycles.get();
      args.spans = gpu->spans.get();
      args.warm = warm;
      args.calls = calls;
      args.marks = marks;
      void* arguments[] = {&args};
      // A block has a multiprocessor to itself, as in the stack.
      check(cudaLaunchCooperativeKernel(kernel_of(arrangement), dim3(kGroups), dim3(rows * 32), arguments, sizeof(stack::Shared), gpu->stream), "the all-reduce");
    }
    finish();
  }

  // Gives ranks to GPUs in reverse: the very same code then adds in another order.
  void reverse_ranks() { std::reverse(order_.begin(), order_.end()); }

  std::vector<float> sums(int rank) const { return fetch(gpus_[rank]->sums); }
  std::vector<uint32_t> cycles(int rank) const { return fetch(gpus_[rank]->cycles); }
  std::vector<Span> spans(int rank) const { return fetch(gpus_[rank]->spans); }

 private:
  static void enable_links(int gpus) {
    for (int a = 0; a < gpus; ++a) {
      use(a);
      for (int b = 0; b < gpus; ++b) {
        if (a == b) continue;
        int reaches = 0;
        check(cudaDeviceCanAccessPeer(&reaches, a, b), "the links");
        if (reaches == 0) throw DeviceError("GPU " + std::to_string(a) + " cannot reach the memory of GPU " + std::to_string(b) + ": no peer access");
        const cudaError_t status = cudaDeviceEnablePeerAccess(b, 0);
        if (status != cudaErrorPeerAccessAlreadyEnabled) check(status, "the links");
        cudaGetLastError();
      }
    }
  }

  // A wait that runs out stops its kernel, and with it, two seconds later, those that wait for it.
  void finish() const {
    std::vector<cudaError_t> status;
    for (const auto& gpu : gpus_) {
      use(gpu->device);
      status.push_back(cudaStreamSynchronize(gpu->stream));
    }
    for (const auto& gpu : gpus_) {
      const ptx::Fault& fault = gpu->mailbox.get()->fault;
      if (fault.code != 0)
        throw KernelFault("the all-reduce alone: GPU " + std::to_string(gpu->device) + ", block " + std::to_string(fault.block) + " waited too long for " +
                              (fault.code == static_cast<uint32_t>(ptx::Wait::kPeer) ? "another GPU" : "its own blocks") + " in call " + std::to_string(fault.detail),
                          fault.code);
    }
    for (const cudaError_t each : status) check(each, "the all-reduce alone");
  }

  template <class T>
  static std::vector<T> fetch(const Device<T>& from) {
    std::vector<T> out(from.size());
    check(cudaMemcpy(out.data(), from.get(), from.bytes(), cudaMemcpyDeviceToHost), "results");
    return out;
  }

  std::vector<std::unique_ptr<Gpu>> gpus_;
  std::vector<int> order_;  // rank of each GPU
};

const char* how_of(bool one_hop) { return one_hop ? "one-hop" : "two-hops"; }

std::vector<std::vector<float>> bases(Data data, int ranks) {
  std::vector<std::vector<float>> base;
  for (int r = 0; r < ranks; ++r) base.push_back(collective_base(data, r, ranks));
  return base;
}

void compare_sums(const Ring& ring, const std::vector<float>& expected, int rows, const std::string& what, Collectives& out) {
  for (int r = 0; r < ring.ranks(); ++r) {
    std::string text;
    const int differing = count_differences(ring.sums(r).data(), expected.data(), rows * kCollectiveHidden, text);
    if (differing > 0) out.wrong.push_back(what + ", rank " + std::to_string(r) + ": " + std::to_string(differing) + " sums are wrong; " + text);
  }
}

PlantedMistake planted(Ring& ring, bool one_hop, const char* mistake, uint32_t marks, const std::vector<float>& expected) {
  ring.run(Arrangement::kChain, one_hop, kCollectiveRows, 0, kCheckedCalls, marks);
  PlantedMistake found{how_of(one_hop), mistake, 0, 0};
  for (int r = 0; r < ring.ranks(); ++r) {
    std::string text;
    const std::vector<float> sums = ring.sums(r);
    found.seen += count_differences(sums.data(), expected.data(), static_cast<int>(sums.size()), text);
    found.values += static_cast<int>(sums.size());
  }
  return found;
}

void check_sums(Ring& ring, Collectives& out) {
  for (const Data data : {Data::kRandom, Data::kCancelling}) {
    const auto base = bases(data, ring.ranks());
    ring.give(base);
    for (const bool one_hop : {false, true}) {
      const std::vector<float> expected = expected_sums(base, kCheckedCalls, one_hop);
      ring.run(Arrangement::kChain, one_hop, kCollectiveRows, 0, kCheckedCalls);
      compare_sums(ring, expected, kCollectiveRows, std::string(how_of(one_hop)) + ", " + name_of(data) + " data", out);
      CollectiveCheck result{how_of(one_hop), name_of(data), {}};
      for (int r = 0; r < ring.ranks(); ++r) result.sums.push_back(ring.sums(r));
      out.checks.push_back(std::move(result));
      if (data != Data::kRandom) continue;
      out.planted.push_back(planted(ring, one_hop, "marks of the use before", 0, expected));
      // Two summands have one order only.
      if (ring.ranks() == 2) continue;
      ring.reverse_ranks();
      out.planted.push_back(planted(ring, one_hop, "ranks added in another order", 1, expected));
      ring.reverse_ranks();
    }
  }
}

void time_calls(Ring& ring, Collectives& out) {
  const auto base = bases(Data::kRandom, ring.ranks());
  ring.give(base);
  const auto time = [&](Arrangement arrangement, bool one_hop, int rows, int launches, const std::vector<float>* expected) {
    const std::string how = expected == nullptr ? "none" : how_of(one_hop);
    for (int launch = 0; launch < launches && out.wrong.empty(); ++launch) {
      ring.run(arrangement, one_hop, rows, kCollectiveWarm, kCollectiveCalls);
      if (expected != nullptr) compare_sums(ring, *expected, rows, how + ", " + name_of(arrangement) + ", " + std::to_string(rows) + " rows", out);
      for (int r = 0; r < ring.ranks(); ++r) {
        const std::vector<Span> spans = ring.spans(r);
        uint64_t slowest = 0;
        for (const Span& span : spans) slowest = std::max(slowest, span.end - span.begin);
        out.launches.push_back({how, name_of(arrangement), rows, launch, r, spans[0].end - spans[0].begin, slowest, ring.cycles(r)});
      }
    }
  };
  time(Arrangement::kBarrier, false, kCollectiveRows, kLaunches, nullptr);
  for (const bool one_hop : {false, true}) {
    // Rows are independent: the sums of fewer are the first of eight.
    const std::vector<float> expected = expected_sums(base, kCollectiveWarm + kCollectiveCalls, one_hop);
    for (const int rows : {1, 2, 4, kCollectiveRows})
      for (const Arrangement arrangement : {Arrangement::kChain, Arrangement::kStep})
        time(arrangement, one_hop, rows, rows == kCollectiveRows ? kLaunches : 1, &expected);
  }
}

}  // namespace

Collectives measure_collectives(int gpus) {
  int there = 0;
  check(cudaGetDeviceCount(&there), "the GPUs");
  if (gpus == 0) gpus = std::clamp(there, 2, stack::kMaxRanks);
  if (gpus < 2 || gpus > stack::kMaxRanks) throw DeviceError("an all-reduce is between 2 to 8 GPUs, not " + std::to_string(gpus));
  if (gpus > there) throw DeviceError(std::to_string(gpus) + " GPUs are needed, " + std::to_string(there) + (there == 1 ? " is" : " are") + " visible");
  Collectives out;
  out.gpus = gpus;
  for (int g = 0; g < gpus; ++g) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, g), "the GPU");
    if (properties.major != 9) throw DeviceError(std::string("the GPU ") + properties.name + " is not of the Hopper generation (compute capability 9.0)");
    if (g == 0) out.gpu = properties.name;
  }
  {
    Ring ring(gpus);
    check_sums(ring, out);
    time_calls(ring, out);
  }
  out.nccl = measure_nccl(gpus);
  return out;
}

}  // namespace kilotoken::bench
