// The wrappers of kernels/ptx/memory.cuh on the machine in software: the same names, found first.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace kilotoken::ptx {

inline uint32_t shared_address(const void* pointer) { return simt::shared_offset(pointer); }

enum class Wait : uint32_t { kRingFull = 1, kRingEmpty, kActivations, kEpilogueFull, kEpilogueEmpty, kExperts, kPrevious, kParts, kPeer };

struct Fault {
  uint32_t code;
  uint32_t block;
  uint32_t detail;
};

inline constexpr long long kWaitCycles = 4'000'000'000;

[[noreturn]] inline void stop(Fault* fault, Wait what, uint32_t detail) {
  if (fault->code == 0) *fault = {static_cast<uint32_t>(what), blockIdx.x, detail};
  simt::trap();
}

struct Watch {
  long long began = 0;
  void look(Fault* fault, Wait what, uint32_t detail) {
    const long long now = clock64();
    if (began == 0) began = now;
    else if (now - began > kWaitCycles) stop(fault, what, detail);
    simt::pause();
  }
};

inline void barrier_init(uint64_t* barrier, uint32_t arrivals) { simt::init(barrier, arrivals); }
inline void barrier_arrive(uint64_t* barrier) { simt::arrive(barrier, 0); }
inline void barrier_expect(uint64_t* barrier, uint32_t bytes) { simt::arrive(barrier, bytes); }
inline bool barrier_passed(uint64_t* barrier, uint32_t parity) { return simt::passed(barrier, parity); }
inline bool barrier_passed_already(uint64_t* barrier, uint32_t parity) { return simt::passed_already(barrier, parity); }
inline void barrier_wait(uint64_t* barrier, uint32_t parity, Fault* fault, Wait what, uint32_t detail) {
  if (!simt::passed(barrier, parity)) stop(fault, what, detail);
}
inline void fence_barrier_init() {}

inline uint64_t evict_first() { return 0; }
inline void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier) { simt::copy_later(to, from, bytes, barrier); }
inline void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier, uint64_t) { simt::copy_later(to, from, bytes, barrier); }
inline void fence_async_global() {}
inline void fence_async_shared() {}

inline uint32_t load_relaxed(const uint32_t* from) { return *static_cast<const volatile uint32_t*>(from); }
inline uint2 load_relaxed(const uint2* from) { return *from; }
inline float2 load_relaxed(const float2* from) { return *from; }
inline float4 load_relaxed(const float4* from) { return *from; }
inline uint32_t load_acquire(const uint32_t* flag) { return load_relaxed(flag); }
inline float4 load_relaxed_system(const float4* from) { return *from; }
inline uint64_t load_relaxed_system(const uint64_t* from) { return *from; }
inline void store_relaxed_system(float4* to, float4 x) { *to = x; }
inline void store_relaxed_system(uint64_t* to, uint64_t x) { *to = x; }
inline void add_release(uint32_t* flag, uint32_t value) { *flag += value; }

inline void wait_counter(const uint32_t* counter, uint32_t target, Fault* fault, Wait what, uint32_t detail) {
  Watch watch;
  while (static_cast<int32_t>(load_acquire(counter) - target) < 0) watch.look(fault, what, detail);
}

template <int kId, int kThreads>
void group_sync() { simt::barrier(kId, kThreads); }
template <int kId, int kThreads>
void group_arrive() { simt::barrier_without_waiting(kId, kThreads); }

template <int kCount>
void more_registers() {}
template <int kCount>
void fewer_registers() {}

inline uint64_t nanoseconds() { return static_cast<uint64_t>(clock64()); }

}  // namespace kilotoken::ptx
