// Shared-memory barriers, bulk copies and flags: one wrapper per instruction, nothing else. Every wait is bounded by a clock; a wait
// that runs out writes who waited for what and stops the kernel, so a missing peer is an error and never a hang.
// Source: PTX ISA 9.0, "mbarrier", "cp.async.bulk", "ld.acquire", "red.release", "fence.proxy".
#pragma once

#include <cstdint>

namespace kilotoken::ptx {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// --- bounded waiting

// What a wait was for; lands in Fault::code (persistent/state.h).
enum class Wait : uint32_t { kRingFull = 1, kRingEmpty, kActivations, kEpilogueFull, kEpilogueEmpty, kExperts, kPrevious, kParts, kPeer };

struct Fault {
  uint32_t code;     // 0: none; otherwise a Wait, or 100 + for faults of the model
  uint32_t block;    // of the grid
  uint32_t detail;   // the instruction's index
};

inline constexpr uint32_t kWaitCycles = 3'500'000'000;  // about two seconds

// Host-visible words of one kernel's fault; the first to fail writes them.
[[noreturn]] __device__ __noinline__ static void stop(Fault* fault, Wait what, uint32_t detail) {
  if (atomicCAS(&fault->code, 0u, static_cast<uint32_t>(what)) == 0u) {
    fault->block = blockIdx.x;
    fault->detail = detail;
    __threadfence_system();
  }
  __trap();
  for (;;) {
  }
}

// The clock's lower half.
__device__ __forceinline__ uint32_t cycles() {
  return static_cast<uint32_t>(clock64());  // one instruction; of the lower half alone the compiler makes two
}

// Counts the cycles of one wait; `detail` is asked for (as uint32_t) when it has run out. Few instructions: there are a hundred waits in the kernel, and each pass of the list should fit the instruction cache.
struct Watch {
  uint32_t began = 0;
  template <class Detail>
  __device__ __forceinline__ void look(Fault* fault, Wait what, const Detail& detail) {
    const uint32_t now = cycles() | 1u;
    if (began == 0) began = now;
    else if (now - began > kWaitCycles) stop(fault, what, detail);
  }
};

// --- mbarrier

__device__ __forceinline__ void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

__device__ __forceinline__ void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}

__device__ __forceinline__ bool barrier_passed(uint64_t* barrier, uint32_t parity) {
  uint32_t passed;
  asm volatile(
      "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
      : "=r"(passed)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return passed != 0;
}

// The same at once: the other one may take its time.
__device__ __forceinline__ bool barrier_passed_already(uint64_t* barrier, uint32_t parity) {
  uint32_t passed;
  asm volatile(
      "{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
      : "=r"(passed)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return passed != 0;
}

template <class Detail>
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity, Fault* fault, Wait what, const Detail& detail) {
  if (barrier_passed(barrier, parity)) return;
  const uint32_t began = cycles();
#pragma unroll 1
  do {
    if (cycles() - began > kWaitCycles) stop(fault, what, detail);
  } while (!barrier_passed(barrier, parity));
}

// Makes barrier_init visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// --- bulk copies

// Weights are read once a step: they leave the L2 first, so that activations and flags stay.
__device__ __forceinline__ uint64_t evict_first() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Global to shared; 16-byte aligned, a multiple of 16 bytes. Completes on `barrier`.
__device__ __forceinline__ void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

__device__ __forceinline__ void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}

// Orders this thread's view of global memory (acquired by a flag) before its own bulk copies.
__device__ __forceinline__ void fence_async_global() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
// Orders this thread's own use of shared memory before bulk copies that another thread issues behind a barrier.
__device__ __forceinline__ void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// --- flags in global memory

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

// Words that may have just been written, from where all see them. Vectors are ordered word by word only.
__device__ __forceinline__ uint32_t load_relaxed(const uint32_t* from) {
  uint32_t x;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(from) : "memory");
  return x;
}
__device__ __forceinline__ uint2 load_relaxed(const uint2* from) {
  uint2 x;
  asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "l"(from) : "memory");
  return x;
}
__device__ __forceinline__ float2 load_relaxed(const float2* from) {
  float2 x;
  asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "l"(from) : "memory");
  return x;
}
__device__ __forceinline__ float4 load_relaxed(const float4* from) {
  float4 x;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "l"(from) : "memory");
  return x;
}

// The same between GPUs.
__device__ __forceinline__ float4 load_relaxed_system(const float4* from) {
  float4 x;
  asm volatile("ld.relaxed.sys.global.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "l"(from) : "memory");
  return x;
}
__device__ __forceinline__ uint64_t load_relaxed_system(const uint64_t* from) {
  uint64_t x;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(x) : "l"(from) : "memory");
  return x;
}
__device__ __forceinline__ void store_relaxed_system(float4* to, float4 x) {
  asm volatile("st.relaxed.sys.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w) : "memory");
}
__device__ __forceinline__ void store_relaxed_system(uint64_t* to, uint64_t x) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(to), "l"(x) : "memory");
}

__device__ __forceinline__ void add_release(uint32_t* flag, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

// Waits until a counter that only grows (and wraps) has reached `target`.
template <class Detail>
__device__ __forceinline__ void wait_counter(const uint32_t* counter, uint32_t target, Fault* fault, Wait what, const Detail& detail) {
  Watch watch;
#pragma unroll 1
  for (;;) {
    if (static_cast<int32_t>(load_acquire(counter) - target) >= 0) return;
    watch.look(fault, what, detail);
  }
}

// --- named barriers of some warps of a block; id 0 is __syncthreads'

template <int kId, int kThreads>
__device__ __forceinline__ void group_sync() {
  asm volatile("bar.sync %0, %1;" ::"n"(kId), "n"(kThreads) : "memory");
}
// Counts the caller without waiting for the others.
template <int kId, int kThreads>
__device__ __forceinline__ void group_arrive() {
  asm volatile("bar.arrive %0, %1;" ::"n"(kId), "n"(kThreads) : "memory");
}

// Registers a thread of the calling warpgroup, all of whose warps must take part; what one gives up another can take.
template <int kCount>
__device__ __forceinline__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t value;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(value));
  return value;
}

}  // namespace kilotoken::ptx
