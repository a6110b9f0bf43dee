// The sum over all GPUs of what each of them adds to the residual, inside the kernel: 8 x hidden binary32, a block 128 columns, a thread four of a row.
// Data are their own flags, so a hop is one store and one poll. The order of the sum is that of the ranks, whoever is first, so all GPUs hold the same bits.
//   Two hops (reduce-scatter, all-gather): each group of columns has an owner; the others send to it, it sums and sends to all. 2 x 8 x hidden x 4 bytes x
//     (n - 1) / n leave a GPU.
//   One hop: everyone sends to everyone and sums for itself. 8 x hidden x 4 x (n - 1) bytes leave a GPU.
// A place is written again only when its reader is known to have read: behind two hops the answer says so; one hop alternates between two halves.
#pragma once

#include "comm.h"
#include "kernels/ops/block.cuh"

namespace kilotoken::stack {

__device__ __forceinline__ float4 marked(float4 x, uint32_t mark) {
  return make_float4(marked(x.x, mark), marked(x.y, mark), marked(x.z, mark), marked(x.w, mark));
}

// Polls until the four words have this use's mark.
__device__ __forceinline__ void await_peers(const float* from, int stride, int count, int except, uint32_t mark, const Place& b, float4 (&loaded)[kMaxRanks]) {
  ptx::Watch watch;
#pragma unroll 1
  for (;;) {
    uint32_t other = 0;
#pragma unroll
    for (int n = 0; n < kMaxRanks; ++n)
      if (n < count && n != except) loaded[n] = ptx::load_relaxed_system(reinterpret_cast<const float4*>(from + n * stride));
#pragma unroll
    for (int n = 0; n < kMaxRanks; ++n)
      if (n < count && n != except) other |= differs(loaded[n], mark);
    if ((other & 1u) == 0) break;
    watch.look(b.fault(), ptx::Wait::kPeer, b.instruction());
  }
#pragma unroll
  for (int n = 0; n < kMaxRanks; ++n)
    if (n < count && n != except) loaded[n] = unmarked(loaded[n]);
}

__device__ __forceinline__ float4 sum_in_order(const float4 (&of)[kMaxRanks], int ranks) {
  float4 sum = of[0];
#pragma unroll
  for (int n = 1; n < kMaxRanks; ++n)
    if (n < ranks) sum = sum + of[n];
  return sum;
}

// `mine`: this rank's four values at `place` (a multiple of four floats) of `group`'s; returns the sum. `half`: of the inbox, for one hop.
__device__ __forceinline__ float4 all_reduce(const Comm& comm, const Place& b, Uses uses, int half, int group, int groups, int place, float4 mine) {
  const uint32_t mark = mark_of(uses, b);
  const int rank = comm.rank, ranks = comm.ranks;
  const int at = ((half * groups + group) * ranks) * kGroupFloats + place;
  float4 of[kMaxRanks];
#pragma unroll
  for (int n = 0; n < kMaxRanks; ++n) of[n] = unmarked(mine);
  if (comm.one_hop) {
#pragma unroll
    for (int n = 0; n < kMaxRanks; ++n)
      if (n < ranks && n != rank) ptx::store_relaxed_system(reinterpret_cast<float4*>(comm.inbox[n] + at + rank * kGroupFloats), marked(mine, mark));
    await_peers(comm.inbox[rank] + at, kGroupFloats, ranks, rank, mark, b, of);
    return sum_in_order(of, ranks);
  }
  const int owner = group % ranks;
  float* const sums = comm.outbox[rank] + group * kGroupFloats + place;
  if (rank != owner) {
    ptx::store_relaxed_system(reinterpret_cast<float4*>(comm.inbox[owner] + at + rank * kGroupFloats), marked(mine, mark));
    float4 sum[kMaxRanks];
    await_peers(sums, 0, 1, -1, mark, b, sum);
    return sum[0];
  }
  await_peers(comm.inbox[rank] + at, kGroupFloats, ranks, rank, mark, b, of);
  const float4 sum = unmarked(sum_in_order(of, ranks));
#pragma unroll
  for (int n = 0; n < kMaxRanks; ++n)
    if (n < ranks && n != rank) ptx::store_relaxed_system(reinterpret_cast<float4*>(comm.outbox[n] + group * kGroupFloats + place), marked(sum, mark));
  return sum;
}

}  // namespace kilotoken::stack
