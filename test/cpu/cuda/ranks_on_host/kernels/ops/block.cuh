// Stands where kernels/ops/block.cuh would for a host compiler: as much of it as kernels/comm/all_reduce.cuh needs, with links that deliver words one by one, in any
// order, and now and then late. A thread of the host is a thread of the GPU.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <thread>

#define __device__
#define __forceinline__ inline

struct float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }

namespace kilotoken::ptx {

enum class Wait { kPeer };
struct Fault {};

// Thrown where the device would stop its kernel.
struct RanOut {
  uint32_t call;
};

inline long patience = 5'000'000;  // looks

struct Watch {
  long looks = 0;
  void look(Fault*, Wait, uint32_t call) {
    if (++looks > patience) throw RanOut{call};
    std::this_thread::yield();
  }
};

inline std::atomic<uint32_t> dice{1};
inline bool late() { return (dice.fetch_add(2654435761u, std::memory_order_relaxed) >> 27) == 0; }

inline float* words(const float4* at) { return const_cast<float*>(&at->x); }
inline float4 load_relaxed_system(const float4* from) {
  float x[4];
  for (int i = 0; i < 4; ++i) x[i] = std::atomic_ref<float>(words(from)[i]).load(std::memory_order_relaxed);
  return {x[0], x[1], x[2], x[3]};
}
inline void store_relaxed_system(float4* to, float4 value) {
  const float x[4] = {value.x, value.y, value.z, value.w};
  for (const int i : {2, 0, 3, 1}) {
    if (late()) std::this_thread::yield();
    std::atomic_ref<float>(words(to)[i]).store(x[i], std::memory_order_relaxed);
  }
}

}  // namespace kilotoken::ptx

namespace kilotoken::stack {

using Uses = uint32_t;

struct Place {
  uint32_t call = 0, uses = 0;
  uint32_t instruction() const { return call; }
  ptx::Fault* fault() const { return nullptr; }
};

inline float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
inline float4 operator*(float4 a, float b) { return {a.x * b, a.y * b, a.z * b, a.w * b}; }

inline uint32_t mark_of(Uses uses, const Place& b) { return (std::popcount(uses & (b.uses | 1u)) + 1) & 1u; }
inline float marked(float x, uint32_t mark) { return __uint_as_float((__float_as_uint(x) & ~1u) | mark); }
inline float unmarked(float x) { return __uint_as_float(__float_as_uint(x) & ~1u); }
inline float4 unmarked(float4 x) { return {unmarked(x.x), unmarked(x.y), unmarked(x.z), unmarked(x.w)}; }
inline uint32_t differs(float x, uint32_t mark) { return __float_as_uint(x) ^ mark; }
inline uint32_t differs(float4 x, uint32_t mark) { return differs(x.x, mark) | differs(x.y, mark) | differs(x.z, mark) | differs(x.w, mark); }

}  // namespace kilotoken::stack
