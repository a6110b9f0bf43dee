#include "kernel.cuh"

#include "kernels/ops/accept.cuh"
#include "kernels/ops/attention_cache.cuh"
#include "kernels/ops/attention_window.cuh"
#include "kernels/ops/experts_down.cuh"
#include "kernels/ops/experts_up.cuh"
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

// Whether the math warps work in shared memory that products use: where sums are handed over, or where inputs come to.
__device__ __forceinline__ bool works_in_shared(Op op) { return op == Op::kAttendWindow || op == Op::kAttend || op == Op::kCombine || op == Op::kTopk; }

// The block's place among those that take part; not below `workers`: it does not.
__device__ __forceinline__ int place_among(const Instruction& ins, const Place& b) {
  const int place = b.index() - ins.first;
  return place < 0 ? place + b.count() : place;
}

// --- the three roles' part of one instruction

template <Storage kStorage, class Ready>
__device__ __forceinline__ void down_multiply_any(const ExpertsDownArgs& args, Block& b, bool early, Ready ready) {
  switch (args.units_per_pass) {
    case 1: return down_multiply<kStorage, 1>(args, b, early, ready);
    case 2: return down_multiply<kStorage, 2>(args, b, early, ready);
    default: return down_multiply<kStorage, 3>(args, b, early, ready);
  }
}

// `alone`: in a launch of its own. `ready`: what thread 0 of a product calls before it fetches inputs.
template <class Ready>
__device__ __forceinline__ void math(const Instruction& ins, Block& b, bool alone, Ready ready) {
  // Ahead of the others, whose choice takes a handful of branches: linears are short.
  if (ins.op == Op::kLinear)
    return ins.linear.format == Format::kE4m3 ? linear_multiply<Format::kE4m3>(ins.linear, b, ready) : linear_multiply<Format::kBf16>(ins.linear, b, ready);
  // Among them the operation's number costs a register that this one wants.
  if (ins.op == Op::kAttend) return ins.attend.head_dim == 192 ? attend<192>(ins.attend, b) : attend<128>(ins.attend, b);
  switch (ins.op) {
    case Op::kEmbed: return embed(ins.embed, b);
    case Op::kLinear: return;  // above
    case Op::kQkv: return qkv(ins.qkv, b);
    case Op::kAttendWindow: return attend_window(ins.window, b, place_among(ins, b));
    case Op::kAttend: return;  // above
    case Op::kCombine: return combine(ins.attend, b);
    case Op::kReduce: return reduce(ins.reduce, b);
    case Op::kSwiglu: return swiglu(ins.swiglu, b);
    case Op::kTopk: return topk(ins.topk, b, place_among(ins, b));
    case Op::kExpertsUp: return up_multiply(ins.up, b, ready);
    case Op::kExpertsDown:
      return ins.down.storage == Storage::kE4m3 ? down_multiply_any<Storage::kE4m3>(ins.down, b, !alone, ready) : down_multiply_any<Storage::kMxfp4>(ins.down, b, !alone, ready);
    case Op::kLogits: return;  // finish()
    case Op::kPickDraft: return pick_draft(ins.pick, b);
    case Op::kPick: return pick(ins.pick, b);
    case Op::kAccept: return accept(b);
    case Op::kToy: return toy(ins.toy, b);
  }
}

// `alone`, `ready`: as in math(); the others: as in up_finish().
template <class Ready, class Report, class Await>
__device__ __forceinline__ void finish(const Instruction& ins, Block& b, bool alone, Ready ready, Report report_early, Await await_early) {
  switch (ins.op) {
    case Op::kLinear: return linear_finish(ins.linear, b);
    case Op::kExpertsUp: return up_finish(ins.up, b, report_early, await_early);
    case Op::kExpertsDown: return down_finish(ins.down, b, !alone, ready);
    case Op::kLogits: return logits(ins.logits, b, place_among(ins, b));
    default: return;
  }
}

// `experts`: how many are chosen, known from the first product that needs them. `ready`: what a lane calls before it fetches what this step has made.
template <class Ready>
__device__ __forceinline__ void fetch(const Instruction& ins, Block& b, uint64_t policy, int& experts, Ready ready) {
  switch (ins.op) {
    case Op::kAttend:
      if (b.thread % 32 == 0) {
        if (ins.attend.head_dim == 192) attend_fetch<192>(ins.attend, b, ready);
        else attend_fetch<128>(ins.attend, b, ready);
      }
      b.page.place = __shfl_sync(~0u, b.page.place, 0);
      b.page.phase = __shfl_sync(~0u, b.page.phase, 0);
      return;
    case Op::kLinear:
      if (b.thread % 32 == 0) linear_fetch(ins.linear, b, policy);
      b.page.place = __shfl_sync(~0u, b.page.place, 0);
      b.page.phase = __shfl_sync(~0u, b.page.phase, 0);
      return;
    case Op::kExpertsUp:
      experts = list_experts(ins.up.choice, ins.up.uses, ins.up.experts, b);
      return up_fetch(ins.up, b, policy, experts);
    case Op::kExpertsDown:
      if (experts == 0) experts = list_experts(ins.down.choice, ins.down.choice_uses, ins.down.experts, b);  // launched alone
      return down_fetch(ins.down, b, policy, experts);
    case Op::kAttendWindow:
      if (threadIdx.x % 32 == 0) window_fetch(ins.window, b, place_among(ins, b));
      b.page.place = __shfl_sync(~0u, b.page.place, 0);
      b.page.phase = __shfl_sync(~0u, b.page.phase, 0);
      return;
    default: return;
  }
}

// --- walking the list

// A role's copy of the instruction in progress; the next one is on its way meanwhile.
struct Reader {
  const Instruction* list;
  Instruction* fetched;  // [kFetched]
  // One warp, when nobody reads what lies there any more; what it brings is there for all behind arrived() and a barrier. From `end` on there are none.
  __device__ __forceinline__ void load(int index, int end) const {
    const int lane = this_thread() % 32;
    if (index < end && lane < static_cast<int>(sizeof(Instruction) / 16))
      copy_16(reinterpret_cast<uint4*>(fetched + index % kFetched) + lane, reinterpret_cast<const uint4*>(list + index) + lane, true);
    copies_commit();
  }
  // The first of those that were loaded and have not been waited for.
  __device__ __forceinline__ void arrived() const { copies_wait<kFetched - 2>(); }
};

// Into the trace, if there is one: the clock at `at`, and at `also` the same again or, for the beginning, the GPU's common clock. One thread.
__device__ __forceinline__ void record(const Program& program, int instruction, int at, int also) {
  if (program.trace == nullptr) return;
  long long* trace = program.trace + (static_cast<size_t>(instruction) * passing(gridDim.x) + passing(blockIdx.x)) * 4;
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

// One walk over the lists, or over their verify parts. In shared memory: registers are for the operations.
struct Pass {
  bool none;                  // the launch ends
  uint32_t drafted;           // whether the draft part runs
  uint32_t drafts, verifies;  // parts that the launch has run when the pass is over
  uint32_t odd;               // bits 1 and 2: whether odd numbers of the two parts have run before, in all
};

__device__ __forceinline__ Pass pass_from(const Shared& shared, bool none, bool drafted, uint32_t drafts, uint32_t verifies) {
  return {none, drafted, drafts + drafted, verifies + 1, ((shared.before.drafts + drafts) & 1) << 1 | ((shared.before.verifies + verifies) & 1) << 2};
}

template <Role kRole>
__device__ __forceinline__ void walk(const Launch& launch, Block& b, Pass& pass) {
  const Program& program = launch.program;
  const bool alone = launch.only >= 0;
  // The warp that loads instructions; of the math warps not the first, whose first thread sends for inputs.
  constexpr uint32_t kLeader = kRole == Role::kMath ? kFinishWarp - 1 : kRole == Role::kFinish ? kFinishWarp : kFetchWarp;
  const auto leads = [&] { return this_thread() / 32 == kLeader; };
  const RoleList& own = program.of[static_cast<int>(kRole)];
  const Reader reader{own.list, b.shared.fetched[static_cast<int>(kRole)]};
  const uint64_t policy = kRole == Role::kFetch ? ptx::evict_first() : 0;

  for (uint32_t phase = 0;;) {
    if (!alone) {
      if (kRole == Role::kMath && this_thread() == 0) {
        b.wait(&b.shared.pass_empty, phase ^ 1, ptx::Wait::kPrevious);
        if (pass.verifies > 0)
          ptx::wait_counter(program.done + (program.count - 1) * kLineWords, pass.verifies, b.fault(), ptx::Wait::kPrevious, b.instruction());
        else if (blockIdx.x == 0) launch.state->began_ns = ptx::nanoseconds();  // later rounds begin where the one before ended
        const int begin = begin_pass(launch, b.shared.first_round);
        pass = pass_from(b.shared, begin < 0, program.verify > 0 && begin == 0, pass.drafts, pass.verifies);
        b.shared.rows = launch.state->rows;
        b.shared.start = launch.state->start;
        ptx::barrier_arrive(&b.shared.pass_full);
      }
      b.wait(&b.shared.pass_full, phase, ptx::Wait::kPrevious);
      if (pass.none) return;
    }
    b.at = pass.drafted ? 0 : own.verify;
    if (leads()) {
#pragma unroll 1
      for (int i = 0; i < kFetched - 1; ++i) reader.load(b.at + i, own.count);
      reader.arrived();
    }
    int experts = 0;
#pragma unroll 1
    for (; b.at < own.count; ++b.at) {
      // The instruction before is done with, and this one is there.
      if constexpr (kRole == Role::kMath) math_sync();
      else if constexpr (kRole == Role::kFinish) finish_sync();
      else __syncwarp();
      const Instruction& ins = reader.fetched[b.at % kFetched];
      b.thread = this_thread();
      b.uses = pass.odd ^ (ins.number >= program.verify ? pass.drafted << 1 : 0);
      if (leads()) reader.load(b.at + kFetched - 1, own.count);
      const auto await = [&](int instruction, int word, uint32_t arrivals) {  // one thread
        const uint32_t count = instruction >= program.verify ? pass.verifies : pass.drafts;
        ptx::wait_counter(program.done + instruction * kLineWords + word, count * arrivals, b.fault(), ptx::Wait::kPrevious, b.instruction());
      };
      const auto ready = [&] {  // one thread
        if (ins.waits >= 0 && !alone) await(ins.waits, 0, ins.arrivals);
        if constexpr (kRole == Role::kMath) record(program, ins.number, 0, 3);
      };
      if constexpr (kRole == Role::kMath) {
        if (place_among(ins, b) < ins.workers && has_part(kRole, ins.op)) {
          if (!is_product(ins.op)) {
            if (works_in_shared(ins.op)) await_taken_over(b);
            if (b.thread == 0) ready();
            if (ins.waits >= 0) math_sync();
          }
          if (alone && ins.op == Op::kExpertsDown) await_experts(b);
          if (ins.op == Op::kExpertsDown && b.thread == 0) record(program, ins.number, 0, 3);  // its inputs are sent for by others
          math(ins, b, alone, ready);
          if (b.thread == 0) record(program, ins.number, 1, 2);
          if (!is_product(ins.op)) {
            if (works_in_shared(ins.op)) ptx::fence_async_shared();  // the next inputs may come to where this one worked
            math_sync();
            if (this_thread() == 0) {
              if (ins.op == Op::kAccept) {
                program.epoch->drafts += pass.drafted;
                program.epoch->verifies += 1;
              }
              if (!alone && !(defect(Defect::kLostReport) && b.index() == 0 && ins.op == Op::kEmbed)) ptx::add_release(program.done + ins.number * kLineWords, 1);
            }
          }
        }
      } else if constexpr (kRole == Role::kFinish) {
        const bool reports = ins.op == Op::kExpertsUp || is_finishing(ins.op);
        if (has_part(kRole, ins.op) && (!is_finishing(ins.op) || place_among(ins, b) < ins.workers)) {
          if (is_finishing(ins.op) && b.thread % kFinishThreads == 0) record(program, ins.number, 0, 3);
          const auto report_early = [&] {
            if (!alone) ptx::add_release(program.done + ins.number * kLineWords + kEarlyWord, 1);
          };
          const auto await_early = [&] {
            if (!alone) await(ins.number, kEarlyWord, ins.workers);
            return !alone;
          };
          finish(ins, b, alone, ready, report_early, await_early);
          if (reports) finish_sync();
          if (b.thread % kFinishThreads == 0) {
            record(program, ins.number, is_finishing(ins.op) ? 1 : 2, 2);
            if (reports && !alone) ptx::add_release(program.done + ins.number * kLineWords, 1);
          }
        }
      } else {
        if (ins.op == Op::kExpertsUp) experts = 0;
        if (place_among(ins, b) < ins.workers) fetch(ins, b, policy, experts, ready);
      }
      if (leads()) reader.arrived();
    }
    if (alone) return;
    phase = pass.verifies & 1;
    ptx::barrier_arrive(&b.shared.pass_empty);
  }
}

__global__ void __launch_bounds__(kThreads, 1) stack_kernel(const __grid_constant__ Launch launch) {
  extern __shared__ __align__(128) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  __shared__ Pass pass;
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
    ptx::barrier_init(&shared.late_full, 1);
    ptx::barrier_init(&shared.finish_began, 1);
    ptx::barrier_init(&shared.experts_full, 1);
    ptx::barrier_init(&shared.pass_full, 1);
    ptx::barrier_init(&shared.pass_empty, kThreads - 32);
    shared.rows = launch.state->rows;
    shared.start = launch.state->start;
    shared.first_round = launch.state->round;
    shared.before = *launch.program.epoch;
    shared.comm = launch.program.comm;
    if (launch.only < 0) {
      pass.drafts = pass.verifies = 0;
    } else {
      const int first = first_of_pass(launch);
      pass = pass_from(shared, false, launch.program.verify > 0 && first == 0, 0, 0);
      if (blockIdx.x == 0 && launch.only == first) launch.state->began_ns = ptx::nanoseconds();
    }
    ptx::fence_barrier_init();
  }
  __syncthreads();
  Block b{{shared, launch.state, launch.mailbox, 0, 0, 0}, {}, {}, 0};
  const int warp = threadIdx.x / 32;
  // Together no more than the 168 a thread of the launch: what is asked for beyond them is waited for without end.
  static_assert(kMathThreads * 200 + (kThreads - kMathThreads) * 104 <= kThreads * 168);
  if (warp < kFinishWarp) {
    ptx::more_registers<200>();
    walk<Role::kMath>(launch, b, pass);
  } else {
    ptx::fewer_registers<104>();
    if (warp < kFetchWarp) walk<Role::kFinish>(launch, b, pass);
    else if (warp == kFetchWarp) walk<Role::kFetch>(launch, b, pass);
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
  Launch launch{program, state, mailbox, 1, index};
  for (RoleList& of : launch.program.of) of = {program.list + index, 0, 1};
  stack_kernel<<<blocks, kThreads, sizeof(Shared), stream>>>(launch);
  return cudaGetLastError();
}

}  // namespace kilotoken::stack
