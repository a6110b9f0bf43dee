#include "kernel.cuh"

#include "kernels/ops/accept.cuh"
#include "kernels/ops/attention.cuh"
#include "kernels/ops/products.cuh"
#include "kernels/ops/residual.cuh"
#include "kernels/ops/router.cuh"
#include "kernels/ops/sampling.cuh"

namespace kilotoken::stack {

namespace {

struct Launch {
  Program program;
  SessionState* state;
  Mailbox* mailbox;
  uint32_t rounds;
  int only;  // the one instruction to run; -1: whole rounds
};

__device__ __forceinline__ bool is_product(Op op) { return op == Op::kLinear || op == Op::kExpertsUp || op == Op::kExpertsDown; }

// --- the three roles' part of one instruction

__device__ __forceinline__ void down_multiply_any(const ExpertsDownArgs& args, Block& b) {
  switch (args.units_per_pass) {
    case 1: return down_multiply<1>(args, b);
    case 2: return down_multiply<2>(args, b);
    default: return down_multiply<3>(args, b);
  }
}

__device__ __forceinline__ void math(const Instruction& ins, Block& b) {
  switch (ins.op) {
    case Op::kEmbed: return embed(ins.embed, b);
    case Op::kLinear:
      return ins.linear.format == Format::kE4m3 ? linear_multiply<Format::kE4m3>(ins.linear, b)
                                                : linear_multiply<Format::kBf16>(ins.linear, b);
    case Op::kQkv: return qkv(ins.qkv, b);
    case Op::kAttend: b.input_phase = attend(ins.attend, b, b.input_phase); return;
    case Op::kCombine: return combine(ins.attend, b);
    case Op::kReduce: return reduce(ins.reduce, b);
    case Op::kSwiglu: return swiglu(ins.swiglu, b);
    case Op::kTopk: return topk(ins.topk, b);
    case Op::kExpertsUp: return ins.up.page_k == 512 ? up_multiply<512>(ins.up, b) : up_multiply<256>(ins.up, b);
    case Op::kExpertsDown: return down_multiply_any(ins.down, b);
    case Op::kLogits: return logits(ins.logits, b);
    case Op::kPickDraft: return pick_draft(ins.pick, b);
    case Op::kPick: return pick(ins.pick, b);
    case Op::kAccept: return accept(b);
    case Op::kToy: return toy(ins.toy, b);
  }
}

__device__ __forceinline__ void finish(const Instruction& ins, Block& b) {
  switch (ins.op) {
    case Op::kLinear: return linear_finish(ins.linear, b);
    case Op::kExpertsUp: return up_finish(ins.up, b);
    case Op::kExpertsDown: return down_finish(ins.down, b);
    default: return;
  }
}

// `previous`: the counter and value that say the experts are chosen; null: they are.
__device__ __forceinline__ void fetch(const Instruction& ins, Block& b, uint64_t policy, const uint32_t* previous, uint32_t target,
                                      int& experts) {
  switch (ins.op) {
    case Op::kLinear:
      if (threadIdx.x % 32 == 0) linear_fetch(ins.linear, b, policy);
      b.page.place = __shfl_sync(~0u, b.page.place, 0);
      b.page.phase = __shfl_sync(~0u, b.page.phase, 0);
      return;
    case Op::kExpertsUp:
      if (previous != nullptr && threadIdx.x % 32 == 0) ptx::wait_counter(previous, target, b.fault(), ptx::Wait::kExperts, b.instruction);
      __syncwarp();
      experts = list_experts(ins.up.masks, ins.up.experts, b.shared.fetch_experts);
      __syncwarp();
      return up_fetch(ins.up, b, policy, experts);
    case Op::kExpertsDown:
      if (experts == 0) {  // launched alone
        experts = list_experts(ins.down.masks, ins.down.experts, b.shared.fetch_experts);
        __syncwarp();
      }
      return down_fetch(ins.down, b, policy, experts);
    default: return;
  }
}

// --- walking the list

// A role's copy of the instruction in progress; the next one is on its way meanwhile.
struct Reader {
  const Instruction* list;
  Instruction* slots;  // [2]
  uint2 next;
  __device__ __forceinline__ void load(int index) { next = __ldg(reinterpret_cast<const uint2*>(list + index) + threadIdx.x % 32); }
  __device__ __forceinline__ void store(int parity) { reinterpret_cast<uint2*>(slots + parity)[threadIdx.x % 32] = next; }
};

// Into the trace, if there is one: the clock at `at`, and at `also` the same again or, for the beginning, the GPU's common clock. One thread of a role.
__device__ __forceinline__ void record(const Program& program, int instruction, int at, int also) {
  if (program.trace == nullptr || threadIdx.x % kFinishThreads != 0 || (threadIdx.x != 0 && at != 2)) return;
  long long* trace = program.trace + (static_cast<size_t>(instruction) * gridDim.x + blockIdx.x) * 4;
  trace[at] = clock64();
  trace[also] = also == 3 ? static_cast<long long>(ptx::nanoseconds()) : trace[at];
}

// Where in the list the next pass begins: a block behind an anchor is drafted first.
__device__ __forceinline__ int first_of_pass(const Launch& launch) {
  volatile const SessionState* s = launch.state;
  return s->phase == Phase::kDecode && s->rows > 1 ? 0 : launch.program.verify;
}

// The same, or -1: none, the launch ends.
__device__ __forceinline__ int begin_pass(const Launch& launch, uint32_t first_round) {
  volatile const SessionState* s = launch.state;
  if (s->phase == Phase::kStopped || s->phase == Phase::kFull || s->round - first_round >= launch.rounds) return -1;
  return first_of_pass(launch);
}

enum class Role { kMath, kFinish, kFetch };

template <Role kRole>
__device__ __forceinline__ void walk(const Launch& launch, Block& b, volatile int* pass_begin) {
  const Program& program = launch.program;
  const bool alone = launch.only >= 0;
  constexpr int kLeader = kRole == Role::kMath ? 0 : kRole == Role::kFinish ? kFinishWarp : kFetchWarp;
  const bool leads = threadIdx.x / 32 == kLeader;
  Reader reader{program.list, b.shared.fetched[static_cast<int>(kRole)], {}};
  const uint32_t first_round = launch.state->round;
  uint32_t drafts = 0, verifies = 0;
  int previous = -1;  // instruction to wait for
  uint32_t target = 0;
  const uint64_t policy = kRole == Role::kFetch ? ptx::evict_first() : 0;
  if (alone && threadIdx.x == 0 && blockIdx.x == 0 && launch.only == first_of_pass(launch)) launch.state->began_ns = ptx::nanoseconds();
  int parity = 0;

  for (int pass = 0;; ++pass) {
    int begin = launch.only, end = launch.only + 1;
    if (!alone) {
      if (kRole == Role::kMath && threadIdx.x == 0) {
        if (previous >= 0) ptx::wait_counter(program.done + previous * kLineWords, target, b.fault(), ptx::Wait::kPrevious, b.instruction);
        pass_begin[pass & 1] = begin_pass(launch, first_round);
        if (pass == 0 && blockIdx.x == 0) launch.state->began_ns = ptx::nanoseconds();  // later rounds begin where the one before ended
        b.shared.rows = launch.state->rows;
        b.shared.start = launch.state->start;
      }
      ptx::group_sync<4, kThreads - 32>();
      begin = pass_begin[pass & 1];
      if (begin < 0) return;
      end = program.count;
      if (begin == 0 && program.verify > 0) ++drafts;
      ++verifies;
    }
    if (leads) {
      reader.load(begin);
      reader.store(parity);
    }
    int experts = 0;
    for (int i = begin; i < end; ++i) {
      b.instruction = static_cast<uint32_t>(i);
      if (leads && i + 1 < end) reader.load(i + 1);
      const Instruction& ins = reader.slots[parity];
      if constexpr (kRole == Role::kMath) {
        if (threadIdx.x == 0 && previous >= 0)
          ptx::wait_counter(program.done + previous * kLineWords, target, b.fault(), ptx::Wait::kPrevious, b.instruction);
        math_sync();
        record(program, i, 0, 3);
        math(ins, b);
        record(program, i, 1, 2);
        if (!is_product(ins.op)) {
          math_sync();
          if (threadIdx.x == 0 && !alone) ptx::add_release(program.done + i * kLineWords, 1);
        }
      } else if constexpr (kRole == Role::kFinish) {
        finish_sync();
        if (is_product(ins.op)) {
          finish(ins, b);
          finish_sync();
          if (threadIdx.x % kFinishThreads == 0 && !alone) {
            record(program, i, 2, 2);
            ptx::add_release(program.done + i * kLineWords, 1);
          }
        }
      } else {
        __syncwarp();
        if (ins.op == Op::kExpertsUp) experts = 0;
        fetch(ins, b, policy, previous >= 0 ? program.done + previous * kLineWords : nullptr, target, experts);
      }
      previous = alone ? -1 : i;
      target = (i < program.verify ? drafts : verifies) * gridDim.x;
      parity ^= 1;
      if (leads && i + 1 < end) reader.store(parity);
    }
    if (alone) return;
  }
}

__global__ void __launch_bounds__(kThreads, 1) stack_kernel(const __grid_constant__ Launch launch) {
  extern __shared__ __align__(128) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  __shared__ int pass_begin[2];
  if (threadIdx.x == 0) {
    for (int i = 0; i < kPages; ++i) {
      ptx::barrier_init(&shared.page_full[i], 1);
      ptx::barrier_init(&shared.page_empty[i], kMathThreads / 32);
    }
    for (int i = 0; i < 2; ++i) {
      ptx::barrier_init(&shared.finish_full[i], kMathThreads);
      ptx::barrier_init(&shared.finish_empty[i], kFinishThreads);
    }
    ptx::barrier_init(&shared.input_full, 1);
    shared.rows = launch.state->rows;
    shared.start = launch.state->start;
    ptx::fence_barrier_init();
  }
  __syncthreads();
  Block b{{shared, launch.state, launch.mailbox, 0}, {}, {}, 0};
  const int warp = threadIdx.x / 32;
  if (warp < kFinishWarp) {
    ptx::more_registers<208>();
    walk<Role::kMath>(launch, b, pass_begin);
  } else {
    ptx::fewer_registers<88>();
    if (warp < kFetchWarp) walk<Role::kFinish>(launch, b, pass_begin);
    else if (warp == kFetchWarp) walk<Role::kFetch>(launch, b, pass_begin);
  }
}

}  // namespace

cudaError_t prepare_kernel() {
  if (const cudaError_t error = cudaFuncSetAttribute(stack_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared)))
    return error;
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, stack_kernel);
}

cudaError_t launch_resident(const Program& program, SessionState* state, Mailbox* mailbox, uint32_t rounds, int blocks,
                            cudaStream_t stream) {
  if (const cudaError_t error = cudaMemsetAsync(program.done, 0, sizeof(uint32_t) * kLineWords * program.count, stream)) return error;
  Launch launch{program, state, mailbox, rounds, -1};
  void* arguments[] = {&launch};
  return cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(stack_kernel), dim3(blocks), dim3(kThreads), arguments, sizeof(Shared),
                                     stream);
}

cudaError_t launch_instruction(const Program& program, int index, SessionState* state, Mailbox* mailbox, int blocks,
                               cudaStream_t stream) {
  stack_kernel<<<blocks, kThreads, sizeof(Shared), stream>>>(Launch{program, state, mailbox, 1, index});
  return cudaGetLastError();
}

}  // namespace kilotoken::stack
