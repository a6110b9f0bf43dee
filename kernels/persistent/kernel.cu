#include "kernel.cuh"

#include "kernels/ops/accept.cuh"
#include "kernels/ops/attention_window.cuh"
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

template <Storage kStorage, class Ready>
__device__ __forceinline__ void down_multiply_any(const ExpertsDownArgs& args, Block& b, Ready ready) {
  switch (args.units_per_pass) {
    case 1: return down_multiply<kStorage, 1>(args, b, ready);
    case 2: return down_multiply<kStorage, 2>(args, b, ready);
    default: return down_multiply<kStorage, 3>(args, b, ready);
  }
}

// `ready`: what thread 0 of a product calls before it fetches inputs.
template <class Ready>
__device__ __forceinline__ void math(const Instruction& ins, Block& b, Ready ready) {
  switch (ins.op) {
    case Op::kEmbed: return embed(ins.embed, b);
    case Op::kLinear:
      return ins.linear.format == Format::kE4m3 ? linear_multiply<Format::kE4m3>(ins.linear, b, ready)
                                                : linear_multiply<Format::kBf16>(ins.linear, b, ready);
    case Op::kQkv: return qkv(ins.qkv, b);
    case Op::kAttendWindow: return attend_window(ins.window, b);
    case Op::kAttend: b.input_phase = attend(ins.attend, b, b.input_phase); return;
    case Op::kCombine: return combine(ins.attend, b);
    case Op::kReduce: return reduce(ins.reduce, b);
    case Op::kSwiglu: return swiglu(ins.swiglu, b);
    case Op::kTopk: return topk(ins.topk, b);
    case Op::kExpertsUp: return up_multiply(ins.up, b, ready);
    case Op::kExpertsDown:
      return ins.down.storage == Storage::kE4m3 ? down_multiply_any<Storage::kE4m3>(ins.down, b, ready) : down_multiply_any<Storage::kMxfp4>(ins.down, b, ready);
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

// `experts`: how many are chosen, known from the first product that needs them.
__device__ __forceinline__ void fetch(const Instruction& ins, Block& b, uint64_t policy, int& experts) {
  switch (ins.op) {
    case Op::kLinear:
      if (threadIdx.x % 32 == 0) linear_fetch(ins.linear, b, policy);
      b.page.place = __shfl_sync(~0u, b.page.place, 0);
      b.page.phase = __shfl_sync(~0u, b.page.phase, 0);
      return;
    case Op::kExpertsUp:
      experts = list_experts(ins.up.choice, ins.up.uses, ins.up.experts, b);
      return up_fetch(ins.up, b, policy, experts);
    case Op::kExpertsDown:
      if (experts == 0) experts = list_experts(ins.down.choice, ins.down.choice_uses, ins.down.experts, b);  // launched alone
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
  const uint64_t policy = kRole == Role::kFetch ? ptx::evict_first() : 0;
  // Parts of the list that have run: in all, and by this launch.
  const volatile Epoch* epoch = program.epoch;
  const uint32_t drafts_before = epoch->drafts, verifies_before = epoch->verifies;
  uint32_t drafts = 0, verifies = 0;
  int parity = 0;
  if (alone && threadIdx.x == 0 && blockIdx.x == 0 && launch.only == first_of_pass(launch)) launch.state->began_ns = ptx::nanoseconds();

  for (int pass = 0;; ++pass) {
    int begin = launch.only, end = launch.only + 1;
    bool drafted = program.verify > 0;
    if (!alone) {
      if (kRole == Role::kMath && threadIdx.x == 0) {
        if (pass > 0)
          ptx::wait_counter(program.done + (program.count - 1) * kLineWords, verifies, b.fault(), ptx::Wait::kPrevious, b.instruction);
        pass_begin[pass & 1] = begin_pass(launch, first_round);
        if (pass == 0 && blockIdx.x == 0) launch.state->began_ns = ptx::nanoseconds();  // later rounds begin where the one before ended
        b.shared.rows = launch.state->rows;
        b.shared.start = launch.state->start;
      }
      ptx::group_sync<4, kThreads - 32>();
      begin = pass_begin[pass & 1];
      if (begin < 0) return;
      end = program.count;
      drafted = drafted && begin == 0;
    } else {
      drafted = drafted && first_of_pass(launch) == 0;
    }
    if (leads) {
      reader.load(begin);
      reader.store(parity);
    }
    int experts = 0;
    for (int i = begin; i < end; ++i) {
      const bool verifying = i >= program.verify;
      b.instruction = static_cast<uint32_t>(i);
      b.uses = ((drafts_before + drafts + (verifying && drafted ? 1 : 0)) & 1) << 1 | ((verifies_before + verifies) & 1) << 2;
      if (leads && i + 1 < end) reader.load(i + 1);
      const Instruction& ins = reader.slots[parity];
      if constexpr (kRole == Role::kMath) {
        math_sync();  // the instruction before has left shared memory; this one is there
        if (b.index() < ins.workers) {
          const auto ready = [&] {
            if (ins.waits >= 0 && !alone) {
              const uint32_t passes = ins.waits >= program.verify ? verifies + 1 : drafts + (drafted ? 1 : 0);
              ptx::wait_counter(program.done + ins.waits * kLineWords, passes * ins.arrivals, b.fault(), ptx::Wait::kPrevious, b.instruction);
            }
            record(program, i, 0, 3);
          };
          if (!is_product(ins.op)) {
            await_taken_over(b);
            if (threadIdx.x == 0) ready();
            if (ins.waits >= 0) math_sync();
          }
          if (alone && ins.op == Op::kExpertsDown) await_experts(b);
          math(ins, b, ready);
          record(program, i, 1, 2);
          if (!is_product(ins.op)) {
            ptx::fence_async_shared();  // the next inputs may come to where this one worked
            math_sync();
            if (threadIdx.x == 0) {
              if (ins.op == Op::kAccept) {
                program.epoch->drafts += drafted;
                program.epoch->verifies += 1;
              }
              if (!alone && !(defect(Defect::kLostReport) && b.index() == 0 && ins.op == Op::kEmbed)) ptx::add_release(program.done + i * kLineWords, 1);
            }
          }
        }
      } else if constexpr (kRole == Role::kFinish) {
        finish_sync();
        if (is_product(ins.op)) {
          finish(ins, b);
          if (ins.op == Op::kExpertsUp) finish_sync();
          if (threadIdx.x % kFinishThreads == 0) {
            record(program, i, 2, 2);
            if (ins.op == Op::kExpertsUp && !alone) ptx::add_release(program.done + i * kLineWords, 1);
          }
        }
      } else {
        __syncwarp();
        if (ins.op == Op::kExpertsUp) experts = 0;
        fetch(ins, b, policy, experts);
      }
      parity ^= 1;
      if (leads && i + 1 < end) reader.store(parity);
    }
    if (alone) return;
    drafts += drafted;
    ++verifies;
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
    ptx::barrier_init(&shared.experts_full, 1);
    shared.rows = launch.state->rows;
    shared.start = launch.state->start;
    ptx::fence_barrier_init();
  }
  __syncthreads();
  Block b{{shared, launch.state, launch.mailbox, &launch.program.comm, 0, 0}, {}, {}, 0, 0};
  const int warp = threadIdx.x / 32;
  // Together no more than the 168 a thread of the launch: what is asked for beyond them is waited for without end.
  static_assert(kMathThreads * 208 + (kThreads - kMathThreads) * 88 <= kThreads * 168);
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

#ifdef KILOTOKEN_GPU_DEFECTS
cudaError_t set_defect(Defect defect) { return cudaMemcpyToSymbol(in_force, &defect, sizeof defect); }
#endif

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
