// What happens when two GPUs that decode together do not get on: one is missing, fails, ends early or not at all, or has too little memory. Each case must end within
// seconds with a line that says what is known: the rank and its GPU, and what the other one waited for; where CUDA tells the same error of both GPUs, as it does
// from the first on for GPUs that are opened to each other, that they failed together (fault_cases.h). The first cases run one exchange of the residual (kernels/comm) on
// each side by itself; the last ones a whole stack of two layers, which takes 24 GB of each GPU.
//   parallel_faults CASE; without an argument, the cases
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "fault_cases.h"
#include "kernels/device_memory.h"
#include "kernels/model.h"
#include "kernels/ranks.h"
#include "kernels/stack.h"
#include "kernels/synthetic/source.h"
#include "stack_ops/rig.h"

using namespace kilotoken;
using namespace kilotoken::stack;

namespace {

__global__ void empty_kernel() {}
__global__ void trap_kernel() { asm volatile("trap;"); }
__global__ void bounds_kernel(int* p) { p[threadIdx.x] = 1; }
// Ends by itself, so that the machine is left whole.
__global__ void slow_kernel(long long nanoseconds) {
  long long start, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
  do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  while (now - start < nanoseconds);
}

constexpr int kHidden = 768, kGroups = kHidden / kQuantGroup;

void use(int device) { check(cudaSetDevice(device), "the GPU"); }

// One GPU's half of an exchange: the sum of both GPUs' parts of a linear, for one step of eight rows.
class Side {
 public:
  explicit Side(int rank) : rank(rank) {
    use(rank);
    check(prepare_kernel(), "loading the kernel");
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
    check(cudaHostAlloc(reinterpret_cast<void**>(&mailbox), sizeof(Mailbox), cudaHostAllocMapped | cudaHostAllocPortable), "pinned memory");
    std::memset(static_cast<void*>(mailbox), 0, sizeof(Mailbox));
    parts = std::make_unique<ops::HandParts>(tile(kHidden, 512, Format::kE4m3, 8), kRows, 1.0f, 0);
    inbox = Device<float>(static_cast<size_t>(2) * kGroups * 2 * kGroupFloats);
    outbox = Device<float>(static_cast<size_t>(kGroups) * kGroupFloats);
    residual = Device<float>(static_cast<size_t>(kRows) * kHidden);
    epoch = Device<Epoch>(1);
    SessionState session{};
    session.block_size = 1;
    session.max_context = session.max_tokens = 4096;
    session.phase = Phase::kPrefill;
    session.start = 5;
    session.rows = kRows;
    state = Device<SessionState>(std::vector<SessionState>{session});
    Instruction ins = ops::instruction(Op::kReduce);
    ins.waits = -1;
    ins.workers = kBlocks;
    ins.reduce.parts = parts->args();
    ins.reduce.residual = residual.get();
    ins.reduce.hidden = kHidden;
    ins.reduce.comm_uses = ops::use(0);
    list = DeviceList({ins});
  }
  ~Side() {
    if (device_lost()) return;
    cudaSetDevice(rank);
    cudaFreeHost(mailbox);
    cudaStreamDestroy(stream);
  }
  Side(const Side&) = delete;

  void meet(const Side& other) {
    list.give(program);
    program.epoch = epoch.get();
    program.comm = Comm{};
    program.comm.rank = rank;
    program.comm.ranks = 2;
    for (const Side* side : {static_cast<const Side*>(this), &other})
      program.comm.inbox[side->rank] = side->inbox.get(), program.comm.outbox[side->rank] = side->outbox.get();
  }
  void exchange() {
    use(rank);
    check(launch_instruction(program, 0, state.get(), mailbox, kBlocks, stream), "a launch");
  }
  RankWait waited() const { return {rank, stream, &mailbox->fault.code}; }

  static constexpr int kBlocks = 8;
  const int rank;
  cudaStream_t stream = nullptr;
  Mailbox* mailbox = nullptr;
  std::unique_ptr<ops::HandParts> parts;
  Device<float> inbox, outbox, residual;
  Device<Epoch> epoch;
  Device<SessionState> state;
  DeviceList list;
  Program program{};
};

// The first GPU exchanges; the second does `instead`.
template <class Instead>
void exchange_against(Instead instead) {
  link_gpus({0, 1});
  Side first(0), second(1);
  first.meet(second);
  second.meet(first);
  first.exchange();
  use(1);
  instead(second);
  await_ranks({first.waited(), second.waited()}, [] { return uint64_t{0}; }, Patience{});
  std::vector<float> sums[2];
  for (const Side* side : {&first, &second}) {
    use(side->rank);
    sums[side->rank].resize(side->residual.size());
    check(cudaMemcpy(sums[side->rank].data(), side->residual.get(), side->residual.bytes(), cudaMemcpyDeviceToHost), "the sums");
  }
  bool any = false;
  for (const float x : sums[0]) any = any || x != 0;
  if (!any || !ops::same_bytes(sums[0], sums[1])) throw KernelFault("the GPUs have other sums", 0);
}

// Two layers of the 1.02 T shape on both GPUs, and a sequence; `before` is done between opening it and decoding.
struct Pair {
  Pair() {
    shape.layers = 2;
    for (uint32_t r = 0; r < 2; ++r) drafts.push_back(synthetic_draft_part(shape, {r, 2}));
    for (uint32_t r = 0; r < 2; ++r) {
      sources.push_back(synthetic_source_part(1, shape, {r, 2}));
      ranks.push_back({static_cast<int>(r), synthetic_target_part(shape, {r, 2}, 512), &drafts[r], sources.back().get()});
    }
  }
  SyntheticShape shape;
  std::vector<DraftShape> drafts;
  std::vector<std::unique_ptr<WeightSource>> sources;
  std::vector<Rank> ranks;
};

bool decoding = false;

template <class Before>
void decode_after(Mode mode, Before before) {
  const Pair pair;
  const auto stack = Stack::make_parallel(pair.ranks);
  Request request;
  request.prompt = {1, 2, 3};
  request.max_tokens = 64;
  request.block_size = 8;
  const auto session = stack->open(request);
  decoding = true;
  before();
  while (!session->finished()) session->run(64, mode);
}

void break_second() {
  use(1);
  trap_kernel<<<1, 1>>>();
  cudaDeviceSynchronize();
}

// All but a GiB of the second GPU's memory is gone.
void too_little_memory() {
  use(1);
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "memory");
  const Device<uint8_t> taken(free > (size_t{1} << 30) ? free - (size_t{1} << 30) : 0);
  decode_after(Mode::kResident, [] {});
}

const FaultCases& cases() {
  static const char* const kMissing = "rank 1 on GPU 1 was missing: its kernel had ended or was never launched; rank 0 on GPU 0 waited too long";
  // A driver tells an error of the second GPU of that alone, of both but of the second first, or of both at once.
  static const std::vector<std::vector<const char*>> kFailed = {{": rank 1 on GPU 1 failed: ", "rank 0 on GPU 0 waited too long, for another GPU"},
                                                                {": rank 1 on GPU 1 failed first: "},
                                                                {": rank 0 on GPU 0 and rank 1 on GPU 1 failed together: "}};
  static const std::vector<std::vector<const char*>> kRefused = {{": rank 1 on GPU 1"}, {": rank 0 on GPU 0 and rank 1 on GPU 1 failed together: "}};
  // The wait that runs out ends the other GPU's kernel as well, or it does not.
  static const std::vector<std::vector<const char*>> kSilent = {{": rank 0 on GPU 0 waited too long, for another GPU", "while rank 1 on GPU 1 still ran"},
                                                                {": rank 1 on GPU 1 did not end its kernel", "rank 0 on GPU 0 waited too long, for another GPU"}};
  static const FaultCases all = {
      {"none", {[] { exchange_against([](Side& s) { s.exchange(); }); }, 0, {{"no fault"}}}},
      {"missing", {[] { exchange_against([](Side&) {}); }, 70, {{kMissing, "another GPU"}}}},
      {"early", {[] { exchange_against([](Side& s) { empty_kernel<<<1, 1, 0, s.stream>>>(); }); }, 70, {{kMissing, "another GPU"}}}},
      {"trap", {[] { exchange_against([](Side& s) { trap_kernel<<<1, 1, 0, s.stream>>>(); }); }, 70, kFailed}},
      {"bounds", {[] { exchange_against([](Side& s) { bounds_kernel<<<1, 32, 0, s.stream>>>(reinterpret_cast<int*>(size_t{1} << 46)); }); }, 70, kFailed}},
      {"silent", {[] { exchange_against([](Side& s) { slow_kernel<<<1, 1, 0, s.stream>>>(14'000'000'000LL); }); }, 70, kSilent}},
      {"stack", {[] { decode_after(Mode::kResident, [] {}); }, 0, {{"no fault"}}}},
      {"stack-resident", {[] { decode_after(Mode::kResident, break_second); }, 70, kRefused}},
      {"stack-graph", {[] { decode_after(Mode::kGraph, break_second); }, 70, kRefused}},
      {"memory", {too_little_memory, 3, {{"rank 1 on GPU 1", "memory"}}}},
  };
  return all;
}

void need_two_gpus() {
  int count = 0, there = 0, back = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess || count < 2)
    throw DeviceError(std::string("two GPUs are needed: ") +
                      (status != cudaSuccess ? cudaGetErrorString(status) : count == 1 ? "one is visible" : "none is visible"));
  cudaDeviceCanAccessPeer(&there, 0, 1);
  cudaDeviceCanAccessPeer(&back, 1, 0);
  if (there == 0 || back == 0) throw DeviceError("GPU 0 and GPU 1 do not reach each other's memory");
}

}  // namespace

int main(int argc, char** argv) { return run_fault_case(argc, argv, cases(), need_two_gpus, decoding); }
