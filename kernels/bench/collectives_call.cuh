// One call of the all-reduce that is repeated alone, for the kernel of collectives.cu and for the host's test of it. Two hops use one half of the inbox, one hop each half
// every other call; places that were empty before call 0 get their marks by turns from then on.
#pragma once

#include "collectives.h"
#include "kernels/comm/all_reduce.cuh"

namespace kilotoken::bench {

__device__ __forceinline__ float varied(float base, uint32_t bits) { return __uint_as_float(__float_as_uint(base) ^ bits); }

// `mine`: what this rank adds, four columns of `row`; becomes what it adds next. Returns the sum. `marks`: 1; 0 is a mistake made on purpose, marks that never change.
__device__ __forceinline__ float4 repeat_call(const stack::Comm& comm, const stack::Place& b, uint32_t call, uint32_t marks, int group, int groups, int place,
                                              float4 base, float4& mine) {
  using namespace stack;
  const uint32_t use = comm.one_hop ? call / 2 : call;
  const int half = comm.one_hop ? static_cast<int>(call & 1) : 0;
  const float4 sum = all_reduce(comm, b, use & marks, half, group, groups, place, mine);
  const uint32_t bits = (call + 1) * kVariation >> 20 & kVaried;
  mine = make_float4(varied(base.x, bits), varied(base.y, bits), varied(base.z, bits), varied(base.w, bits)) + sum * kFeedback;
  return sum;
}

}  // namespace kilotoken::bench
