#include "floors.h"

#include <algorithm>
#include <functional>

#include <cuda_runtime.h>

#include "json.h"
#include "kernels/device_memory.h"
#include "kernels/ptx/memory.cuh"

namespace kilotoken::bench {

namespace {

using stack::check;
using stack::Device;
using stack::DeviceError;
using stack::KernelFault;

constexpr int kRepeats = 7;

// --- the words that are read: their sum is known without reading them

constexpr uint32_t kFactor = 2654435761u;

__global__ void fill_words(uint32_t* words, size_t count) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<size_t>(gridDim.x) * blockDim.x)
    words[i] = static_cast<uint32_t>(i) * kFactor;
}

uint32_t sum_of_words(uint64_t count) {
  const uint64_t half = count % 2 == 0 ? count / 2 * (count - 1) : (count - 1) / 2 * count;
  return static_cast<uint32_t>(half) * kFactor;
}

// When a block began and ended, %globaltimer.
struct Span {
  uint64_t begin, end;
};

double us_of(const std::vector<Span>& spans) {
  uint64_t begin = ~0ull, end = 0;
  for (const Span& s : spans) begin = std::min(begin, s.begin), end = std::max(end, s.end);
  return static_cast<double>(end - begin) / 1e3;
}

std::vector<Span> fetch(const Device<Span>& spans) {
  std::vector<Span> out(spans.size());
  check(cudaMemcpy(out.data(), spans.get(), spans.bytes(), cudaMemcpyDeviceToHost), "times");
  return out;
}

template <class T>
T fetch_one(const Device<T>& value) {
  T out;
  check(cudaMemcpy(&out, value.get(), sizeof out, cudaMemcpyDeviceToHost), "a result");
  return out;
}

// Pinned, so that it can be read after a kernel has stopped itself.
class PinnedFault {
 public:
  PinnedFault() {
    check(cudaHostAlloc(reinterpret_cast<void**>(&fault_), sizeof(ptx::Fault), cudaHostAllocMapped), "pinned memory");
    *fault_ = {};
  }
  ~PinnedFault() { cudaFreeHost(fault_); }
  PinnedFault(const PinnedFault&) = delete;

  ptx::Fault* get() const { return fault_; }
  void finish(const char* what) const {
    const cudaError_t status = cudaDeviceSynchronize();
    if (fault_->code != 0) throw KernelFault(std::string(what) + ": a wait ran out in block " + std::to_string(fault_->block), fault_->code);
    check(status, what);
  }

 private:
  ptx::Fault* fault_ = nullptr;
};

// --- the read rate

constexpr int kReaders = 256, kMaxRingPages = 24;

struct ReadArgs {
  const uint8_t* data;
  uint64_t pages;
  uint32_t page_bytes;
  int ring_pages;
  uint32_t* sum;
  Span* spans;
  ptx::Fault* fault;
};

__global__ void __launch_bounds__(kReaders + 32, 1) read_kernel(const __grid_constant__ ReadArgs args) {
  extern __shared__ __align__(128) uint8_t ring[];
  __shared__ uint64_t full[kMaxRingPages], empty[kMaxRingPages];
  if (threadIdx.x == 0) {
    for (int i = 0; i < args.ring_pages; ++i) {
      ptx::barrier_init(&full[i], 1);
      ptx::barrier_init(&empty[i], kReaders / 32);
    }
    ptx::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x == 0) args.spans[blockIdx.x].begin = ptx::nanoseconds();
  int place = 0;
  uint32_t phase = 0;
  const int mine = static_cast<int>((args.pages + gridDim.x - 1 - blockIdx.x) / gridDim.x);
  if (threadIdx.x >= kReaders) {
    if (threadIdx.x == kReaders) {
      // Running pointers only: what this thread does for a page is what limits small pages.
      const uint64_t policy = ptx::evict_first();
      const uint32_t bytes = args.page_bytes;
      const uint8_t* from = args.data + static_cast<size_t>(blockIdx.x) * bytes;
      const size_t stride = static_cast<size_t>(gridDim.x) * bytes;
      uint8_t* to = ring;
      for (int page = 0; page < mine; ++page) {
        ptx::barrier_wait(&empty[place], phase ^ 1, args.fault, ptx::Wait::kRingEmpty, 0);
        ptx::barrier_expect(&full[place], bytes);
        ptx::bulk_copy(to, from, bytes, &full[place], policy);
        from += stride;
        to += bytes;
        if (++place == args.ring_pages) place = 0, phase ^= 1, to = ring;
      }
    }
    return;
  }
  uint32_t sum = 0;
  const uint8_t* at = ring;
  for (int page = 0; page < mine; ++page) {
    ptx::barrier_wait(&full[place], phase, args.fault, ptx::Wait::kRingFull, 0);
    for (uint32_t i = threadIdx.x * 16; i < args.page_bytes; i += kReaders * 16) {
      const uint4 w = *reinterpret_cast<const uint4*>(at + i);
      sum += (w.x + w.y) + (w.z + w.w);
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::barrier_arrive(&empty[place]);
    at += args.page_bytes;
    if (++place == args.ring_pages) place = 0, phase ^= 1, at = ring;
  }
  ptx::group_sync<1, kReaders>();
  if (threadIdx.x == 0) args.spans[blockIdx.x].end = ptx::nanoseconds();
  sum = __reduce_add_sync(~0u, sum);
  if (threadIdx.x % 32 == 0) atomicAdd(args.sum, sum);
}

std::vector<ReadRate> measure_reads(int blocks) {
  constexpr size_t kBytes = size_t{4} << 30;
  const Device<uint32_t> words(kBytes / 4);
  fill_words<<<blocks * 8, 256>>>(words.get(), words.size());
  check(cudaGetLastError(), "filling memory");
  const Device<Span> spans(blocks);
  const Device<uint32_t> sum(1);
  const PinnedFault fault;
  std::vector<ReadRate> rates;
  for (const int ring_kib : {32, 64, 96, 128, 160, 192}) {
    for (const int page_bytes : {8192, 16384, 17408}) {
      ReadRate rate{ring_kib, page_bytes, 0, {}};
      const uint64_t pages = kBytes / page_bytes;
      rate.bytes = pages * page_bytes;
      const ReadArgs args{reinterpret_cast<const uint8_t*>(words.get()), pages, static_cast<uint32_t>(page_bytes), ring_kib * 1024 / page_bytes,
                          sum.get(), spans.get(), fault.get()};
      const size_t ring = static_cast<size_t>(args.ring_pages) * page_bytes;
      check(cudaFuncSetAttribute(read_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(ring)), "shared memory");
      for (int repeat = -1; repeat < kRepeats; ++repeat) {
        check(cudaMemset(sum.get(), 0, 4), "a sum");
        read_kernel<<<blocks, kReaders + 32, ring>>>(args);
        check(cudaGetLastError(), "the read rate");
        fault.finish("the read rate");
        if (fetch_one(sum) != sum_of_words(rate.bytes / 4)) throw KernelFault("the read rate: the sum of what was read is wrong", 0);
        if (repeat >= 0) rate.us.push_back(us_of(fetch(spans)));
      }
      rates.push_back(rate);
    }
  }
  return rates;
}

// --- the grid barrier

constexpr int kBarriers = 2000;

// slots: [2][blocks]; wrong: blocks that did not see what their neighbour wrote before the barrier.
template <bool kChecked>
__global__ void __launch_bounds__(256, 1) barrier_kernel(uint32_t* counter, uint32_t* slots, uint32_t* wrong, Span* span, ptx::Fault* fault) {
  const int blocks = gridDim.x;
  for (int round = 0; round <= kBarriers; ++round) {
    if (kChecked && threadIdx.x == 64) slots[round % 2 * blocks + blockIdx.x] = round + 1;
    __syncthreads();
    if (threadIdx.x == 0) {
      ptx::add_release(counter, 1);
      ptx::wait_counter(counter, static_cast<uint32_t>(round + 1) * blocks, fault, ptx::Wait::kPrevious, round);
      if (round == 0 && blockIdx.x == 0) span->begin = ptx::nanoseconds();
    }
    __syncthreads();
    if (kChecked && threadIdx.x == 96 && __ldcg(slots + round % 2 * blocks + (blockIdx.x + 1) % blocks) != round + 1) atomicAdd(wrong, 1);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) span->end = ptx::nanoseconds();
}

std::vector<double> measure_barrier(int blocks) {
  const Device<uint32_t> counter(1), slots(2 * blocks), wrong(1);
  const Device<Span> span(1);
  const PinnedFault fault;
  std::vector<double> us;
  for (int repeat = -1; repeat < kRepeats; ++repeat) {
    check(cudaMemset(counter.get(), 0, 4), "a counter");
    uint32_t *c = counter.get(), *s = slots.get(), *w = wrong.get();
    Span* at = span.get();
    ptx::Fault* f = fault.get();
    void* arguments[] = {&c, &s, &w, &at, &f};
    const void* kernel = repeat < 0 ? reinterpret_cast<const void*>(barrier_kernel<true>) : reinterpret_cast<const void*>(barrier_kernel<false>);
    check(cudaLaunchCooperativeKernel(kernel, dim3(blocks), dim3(256), arguments, 0, nullptr), "the barrier");
    fault.finish("the barrier");
    if (fetch_one(wrong) != 0) throw KernelFault("the barrier: a block did not see what another wrote before it", 0);
    if (repeat >= 0) us.push_back(us_of(fetch(span)) / kBarriers);
  }
  return us;
}

// --- hops

enum class Carrier { kFlag, kFlagged, kCarried };

constexpr int kTrips = 200, kLine = 32;  // words
constexpr uint32_t kSpread = 0x9e3779b1u;

__device__ __forceinline__ void store_release(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ void store_relaxed(uint4* at, uint4 v) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ uint4 load_relaxed(const uint4* at) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at) : "memory");
  return v;
}

// What lane `lane` sends on trip `trip`: 16 bytes, every word another one each trip.
__device__ __forceinline__ uint4 payload(uint32_t trip, uint32_t lane) {
  const uint32_t x = trip * kSpread + lane * 4;
  return make_uint4(x, x + 1, x + 2, x + 3);
}
__device__ __forceinline__ bool same(uint4 a, uint4 b) { return a.x == b.x && a.y == b.y && a.z == b.z && a.w == b.w; }

// One direction: its flag, and 512 bytes.
struct Line {
  uint32_t flag[kLine];
  uint4 data[32];
};

template <Carrier kCarrier>
__device__ __forceinline__ void send(Line* line, uint32_t trip) {
  const uint32_t lane = threadIdx.x;
  if (kCarrier == Carrier::kCarried) {
    store_relaxed(line->data + lane, payload(trip, lane));
    return;
  }
  if (kCarrier == Carrier::kFlagged) line->data[lane] = payload(trip, lane);
  __syncwarp();
  if (lane == 0) store_release(line->flag, trip);
}

// Counts into `wrong` what arrived otherwise than it was sent.
template <Carrier kCarrier>
__device__ __forceinline__ void receive(Line* line, uint32_t trip, uint32_t& wrong, ptx::Fault* fault) {
  const uint32_t lane = threadIdx.x;
  if (kCarrier == Carrier::kCarried) {
    // A word that is the trip's own has arrived; whoever waits for all of them has checked all of them.
    ptx::Watch watch;
    while (!same(load_relaxed(line->data + lane), payload(trip, lane))) watch.look(fault, ptx::Wait::kPrevious, trip);
    __syncwarp();
    return;
  }
  if (lane == 0) {
    ptx::Watch watch;
    while (ptx::load_acquire(line->flag) != trip) watch.look(fault, ptx::Wait::kPrevious, trip);
  }
  __syncwarp();
  if (kCarrier == Carrier::kFlagged && !same(load_relaxed(line->data + lane), payload(trip, lane))) ++wrong;
}

template <Carrier kCarrier>
__global__ void __launch_bounds__(32, 1) hop_kernel(Line* lines, int partner, uint32_t* wrong, Span* span, ptx::Fault* fault) {
  const int block = blockIdx.x;
  if (block != 0 && block != partner) return;
  uint32_t bad = 0;
  Line *there = lines, *back = lines + 1;
  for (uint32_t trip = 1; trip <= kTrips + 1; ++trip) {
    if (trip == 2 && block == 0 && threadIdx.x == 0) span->begin = ptx::nanoseconds();
    if (block == 0) {
      send<kCarrier>(there, trip);
      receive<kCarrier>(back, trip, bad, fault);
    } else {
      receive<kCarrier>(there, trip, bad, fault);
      send<kCarrier>(back, trip);
    }
  }
  if (block == 0 && threadIdx.x == 0) span->end = ptx::nanoseconds();
  if (bad != 0) atomicAdd(wrong, bad);
}

template <Carrier kCarrier>
std::vector<Hop> measure_hops(int blocks) {
  constexpr int kShared = 160 * 1024;  // so that every block has a multiprocessor of its own
  check(cudaFuncSetAttribute(hop_kernel<kCarrier>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared), "shared memory");
  const Device<Line> lines(2);
  const Device<uint32_t> wrong(1);
  const Device<Span> span(1);
  const PinnedFault fault;
  std::vector<Hop> hops;
  for (int partner = 1; partner < blocks; ++partner) {
    Hop hop{partner, {}};
    for (int repeat = -1; repeat < kRepeats; ++repeat) {
      check(cudaMemset(lines.get(), 0, lines.bytes()), "flags");
      hop_kernel<kCarrier><<<blocks, 32, kShared>>>(lines.get(), partner, wrong.get(), span.get(), fault.get());
      check(cudaGetLastError(), "a hop");
      fault.finish("a hop");
      if (fetch_one(wrong) != 0) throw KernelFault("a hop: other data arrived than were sent", 0);
      if (repeat >= 0) hop.us.push_back(us_of(fetch(span)) / (2 * kTrips));
    }
    hops.push_back(hop);
  }
  return hops;
}

// --- launches

constexpr int kLaunches = 1000;

__global__ void empty_kernel() {}

std::vector<double> time_launches(cudaStream_t stream, const std::function<void()>& issue) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "an event");
  check(cudaEventCreate(&end), "an event");
  std::vector<double> us;
  for (int repeat = -1; repeat < kRepeats; ++repeat) {
    check(cudaEventRecord(begin, stream), "an event");
    issue();
    check(cudaEventRecord(end, stream), "an event");
    check(cudaEventSynchronize(end), "empty kernels");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "an event");
    if (repeat >= 0) us.push_back(ms * 1e3 / kLaunches);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return us;
}

void measure_launches(int blocks, Floors& floors) {
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  const auto issue = [&] {
    for (int i = 0; i < kLaunches; ++i) empty_kernel<<<blocks, 384, 0, stream>>>();
    check(cudaGetLastError(), "empty kernels");
  };
  floors.launch_us = time_launches(stream, issue);
  cudaGraph_t recorded;
  cudaGraphExec_t graph;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording");
  issue();
  check(cudaStreamEndCapture(stream, &recorded), "recording");
  check(cudaGraphInstantiate(&graph, recorded, 0), "recording");
  floors.graph_node_us = time_launches(stream, [&] { check(cudaGraphLaunch(graph, stream), "a graph"); });
  cudaGraphExecDestroy(graph);
  cudaGraphDestroy(recorded);
  cudaStreamDestroy(stream);
}

// --- the clock itself

__global__ void step_kernel(uint64_t* smallest) {
  uint64_t least = ~0ull;
  const long long until = clock64() + 2'000'000;
  for (uint64_t before = ptx::nanoseconds(); clock64() < until;) {
    const uint64_t now = ptx::nanoseconds();
    if (now != before) least = min(least, now - before);
    before = now;
  }
  *smallest = least;
}

double clock_step() {
  const Device<uint64_t> smallest(1);
  step_kernel<<<1, 1>>>(smallest.get());
  check(cudaDeviceSynchronize(), "the clock");
  return static_cast<double>(fetch_one(smallest));
}

}  // namespace

Floors measure_floors(int device) {
  check(cudaSetDevice(device), "the GPU");
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "the GPU");
  if (properties.major != 9) throw DeviceError(std::string("the GPU ") + properties.name + " is not of the Hopper generation (compute capability 9.0)");
  Floors floors;
  floors.blocks = properties.multiProcessorCount;
  floors.clock_step_ns = clock_step();
  floors.reads = measure_reads(floors.blocks);
  floors.barrier_us = measure_barrier(floors.blocks);
  floors.flag = measure_hops<Carrier::kFlag>(floors.blocks);
  floors.flagged = measure_hops<Carrier::kFlagged>(floors.blocks);
  floors.carried = measure_hops<Carrier::kCarried>(floors.blocks);
  measure_launches(floors.blocks, floors);
  return floors;
}

std::string floors_json(const Floors& floors) {
  Json json;
  json.begin().number("blocks", floors.blocks).number("clockStepNs", floors.clock_step_ns).list("reads");
  for (const ReadRate& r : floors.reads)
    json.begin().number("ringKib", r.ring_kib).number("pageBytes", r.page_bytes).number("bytes", r.bytes).numbers("us", r.us).end();
  json.end_list().numbers("barrierUs", floors.barrier_us);
  const auto hops = [&](const char* name, const std::vector<Hop>& list) {
    json.list(name);
    for (const Hop& h : list) json.begin().number("partner", h.partner).numbers("us", h.us).end();
    json.end_list();
  };
  hops("flag", floors.flag);
  hops("flagged", floors.flagged);
  hops("carried", floors.carried);
  return json.numbers("launchUs", floors.launch_us).numbers("graphNodeUs", floors.graph_node_us).end().text();
}

}  // namespace kilotoken::bench
