// Sums over the sixteen lanes of core/lanes.h by sixteen neighbouring threads: thread j of a half warp is lane j. Each adds its own
// elements in ascending order; `halve` then folds the lanes. This is the order of reference/cpu, so sums have its very bits.
#pragma once

#include "core/lanes.h"

namespace kilotoken::fp8 {

inline constexpr unsigned kWarp = 0xffffffffu;

__device__ inline int lane_of_thread() { return static_cast<int>(threadIdx.x % kLanes); }

// All 32 threads of the warp must call. The sum is in lane 0.
__device__ inline float halve(float lane) {
#pragma unroll
  for (int stride = kLanes / 2; stride > 0; stride /= 2) lane += __shfl_down_sync(kWarp, lane, stride, kLanes);
  return lane;
}

// The value of lane 0, to all sixteen.
__device__ inline float broadcast(float lane) { return __shfl_sync(kWarp, lane, 0, kLanes); }

}  // namespace kilotoken::fp8
