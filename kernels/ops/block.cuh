// What every operation sees of its block of threads: who it is, the shared memory, and small sums whose order never changes.
#pragma once

#include <cstdint>

#include "kernels/comm/comm.h"
#include "kernels/defects.h"
#include "kernels/pages.h"
#include "kernels/persistent/instruction.h"
#include "kernels/persistent/state.h"
#include "kernels/ptx/memory.cuh"
#include "kernels/ptx/warp.cuh"
#include "kernels/ptx/wgmma.cuh"

namespace kilotoken::stack {

using ptx::bf16_of, ptx::bf16_pair, ptx::copies_commit, ptx::copies_wait, ptx::copy_16, ptx::e4m3_pair, ptx::exp2_of, ptx::load_columns, ptx::load_rows, ptx::load_transposed, ptx::passing,
    ptx::product_16x8, ptx::this_thread;

// Roles of a block's warps: 0 .. 3 and 4 .. 7 multiply (and do all that is no matrix product), 8 and 9 finish tiles, 10 fetches, 11 rests.
inline constexpr int kFinishWarp = 8, kFetchWarp = 10, kRestWarp = 11;

// Of a block of keys on its way through the ring (attention_cache.cuh), at its first page.
struct Note {
  int at, end;               // keys; end 0: no more blocks
  int begin;                 // of the chunk
  int chunk, group;
  int from, to;              // rows of the step
  int new_group, last;       // the first block of a group's, the last one of a chunk
};

inline constexpr int kQueryStride = 192 + 8;  // elements; the padding spreads rows over banks

// Instructions that a role has at hand: the one it works on and the next ones. One in which it has no part costs it a few steps then, and otherwise a trip to the L2.
inline constexpr int kFetched = 4;

struct Shared {
  alignas(128) uint8_t pages[kPages][kPageBytes];
  alignas(128) uint8_t input[kInputBytes];
  alignas(128) float input_scales[kInputBytes / kRows / kQuantGroup * kRows];  // [k / 128][8]
  union {
    alignas(128) float4 finish[2][2][kFragmentThreads];  // [slot][warpgroup][thread]: accumulators on their way to the finishing warps
    float scratch[16 * kValueDim];                     // of whatever the math warps do between products
  };
  alignas(16) float small[kMaxExperts];
  double wide[kMathThreads + 8];
  uint8_t behind[4032];                              // attention over long contexts keeps parts of its queries from `finish` to here
  float factor[kRows];                               // by row: of the norm, or a rescaling
  float expert_weight[kMaxStepExperts][kRows];
  float finish_scratch[2][kRows];
  uint16_t experts[kMaxStepExperts];                 // ids in ascending order, listed by the fetching warp; a position here is an expert's rank
  uint16_t expert_rank[kMaxExperts];                 // of the listed ones
  int expert_count;
  bool experts_known;                                // when the up products' inputs were sent for
  uint32_t rows, start;                              // of the step in progress, as SessionState has them
  uint32_t first_round;                              // of the launch
  Epoch before;                                      // the launch
  Comm comm;                                         // a copy: the launch's lies where a load takes as long as a trip to the L2
  alignas(16) Instruction fetched[3][kFetched];      // by role; number i of the list at i % kFetched
  Note notes[kPages];
  uint64_t page_full[kPages], page_empty[kPages];
  uint64_t finish_full[2], finish_empty[2];
  uint64_t finish_began;                             // the up products' finishing warps
  uint64_t input_full, late_full;                    // of inputs; of those that came behind the others (down products)
  uint64_t experts_full;
  uint64_t pass_full, pass_empty;                    // of the resident kernel: the next pass is decided; nobody reads of the one before any more
};
static_assert(sizeof(Shared) <= 232448, "shared memory of a block on Hopper");

// A position in a ring of kSize places.
template <int kSize>
struct Turn {
  int place = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void next(int by = 1) {  // 0 or 1
    place += by;
    if (place == kSize) {
      place = 0;
      phase ^= 1;
    }
  }
};

// Of a wait that has run out: the number of the instruction in progress. Looked up only then.
struct Where {
  const Shared& shared;
  int at;
  __device__ __forceinline__ operator uint32_t() const {
    const int warp = passing(threadIdx.x) / 32, role = static_cast<int>(warp < kFinishWarp ? Role::kMath : warp < kFetchWarp ? Role::kFinish : Role::kFetch);
    return static_cast<uint32_t>(shared.fetched[role][at % kFetched].number);
  }
};

// Where an operation runs. Operations that are no matrix products get a copy and are functions of their own.
struct Place {
  Shared& shared;
  SessionState* state;
  Mailbox* mailbox;
  int at;                // of the instruction in progress: its place in the role's list
  uint32_t uses;         // bit 1: an odd number of draft parts lie before the instruction in progress, bit 2: of verify parts
  uint32_t thread;       // threadIdx.x, read anew for every instruction: of the constant itself the compiler would derive all operations' indices before the first
                         // instruction and keep them in registers through every one

  __device__ __forceinline__ int index() const { return static_cast<int>(blockIdx.x); }
  __device__ __forceinline__ int count() const { return static_cast<int>(gridDim.x); }
  __device__ __forceinline__ const Comm& comm() const { return shared.comm; }
  __device__ __forceinline__ ptx::Fault* fault() const { return &mailbox->fault; }
  __device__ __forceinline__ Where instruction() const { return {shared, at}; }
};

// One role's walk through the rings; lives in registers.
struct Block : Place {
  Turn<kPages> page;
  Turn<2> slot;
  uint32_t phases = 0;  // of input_full, late_full, experts_full, finish_began: bits 0 .. 3

  __device__ __forceinline__ void wait_phase(uint64_t* barrier, int bit, ptx::Wait what) {
    wait(barrier, phases >> bit & 1, what);
    phases ^= 1u << bit;
  }
  __device__ __forceinline__ void wait(uint64_t* barrier, uint32_t parity, ptx::Wait what) const {
    ptx::barrier_wait(barrier, parity, fault(), what, instruction());
  }
};

__device__ __forceinline__ void math_sync() { ptx::group_sync<1, kMathThreads>(); }
__device__ __forceinline__ void finish_sync() { ptx::group_sync<2, kFinishThreads>(); }

// --- reductions over a warp; a butterfly, so every lane holds the same bits

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int stride = 16; stride > 0; stride /= 2) x += __shfl_xor_sync(~0u, x, stride);
  return x;
}
// Of numbers that are not negative: their bits have their order, and one instruction compares a warp's. A NaN counts as larger than all.
__device__ __forceinline__ float warp_max_magnitude(float x) { return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(x))); }

// The norm's factor of `row`; all lanes of a warp. In two steps, so that other loads can start in between.
struct Squares {
  float of[kMaxHidden / kQuantGroup / 32];
};
__device__ __forceinline__ Squares norm_squares(const Norm& norm, int row) {
  Squares squares;
#pragma unroll
  for (int i = 0; i < kMaxHidden / kQuantGroup / 32; ++i) {
    const int g = i * 32 + (threadIdx.x & 31);
    squares.of[i] = g < norm.groups ? __ldcg(norm.squares + g * kRows + (row ^ defect(Defect::kSquares))) : 0.0f;
  }
  return squares;
}
__device__ __forceinline__ float norm_factor(const Norm& norm, const Squares& squares) {
  return rsqrtf(__fdividef(warp_sum(squares.of[0] + squares.of[1]), norm.width) + norm.epsilon);
}
static_assert(sizeof(Squares) == 8);

// Order-preserving integer of a number that is not NaN; larger is larger. Equal for +0 and -0.
__device__ __forceinline__ uint32_t order_key(float x) {
  const uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float of_order_key(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }
__device__ __forceinline__ float warp_max(float x) { return of_order_key(__reduce_max_sync(~0u, order_key(x))); }

// --- parts of a tile: partial sums over k, added in ascending k

__device__ __forceinline__ float4 operator+(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
__device__ __forceinline__ float4 operator*(float4 a, float b) { return make_float4(a.x * b, a.y * b, a.z * b, a.w * b); }
__device__ __forceinline__ float2 operator+(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }

// The bit that marks what this use of a buffer writes; memory that was never written has none.
__device__ __forceinline__ uint32_t mark_of(Uses uses, const Place& b) { return (__popc(uses & (b.uses | 1u)) + 1) & 1u; }

__device__ __forceinline__ float marked(float x, uint32_t mark) { return __uint_as_float((__float_as_uint(x) & ~1u) | mark); }
__device__ __forceinline__ float unmarked(float x) { return __uint_as_float(__float_as_uint(x) & ~1u); }
__device__ __forceinline__ float4 unmarked(float4 x) { return make_float4(unmarked(x.x), unmarked(x.y), unmarked(x.z), unmarked(x.w)); }

// Bit 0 of the result: some word has another mark than bit 0 of `mark`.
__device__ __forceinline__ uint32_t differs(float x, uint32_t mark) { return __float_as_uint(x) ^ mark; }
__device__ __forceinline__ uint32_t differs(float4 x, uint32_t mark) {
  return differs(x.x, mark) | differs(x.y, mark) | differs(x.z, mark) | differs(x.w, mark);
}

// Without its mark, if that is `mark`; otherwise bit 0 is set.
__device__ __forceinline__ float turned(float x, uint32_t mark) { return __uint_as_float(__float_as_uint(x) ^ mark); }
__device__ __forceinline__ float2 turned(float2 x, uint32_t mark) { return make_float2(turned(x.x, mark), turned(x.y, mark)); }
__device__ __forceinline__ float4 turned(float4 x, uint32_t mark) { return make_float4(turned(x.x, mark), turned(x.y, mark), turned(x.z, mark), turned(x.w, mark)); }
// Bit 0: of some word.
__device__ __forceinline__ uint32_t any_bit(float2 x) { return __float_as_uint(x.x) | __float_as_uint(x.y); }
__device__ __forceinline__ uint32_t any_bit(float4 x) { return __float_as_uint(x.x) | __float_as_uint(x.y) | __float_as_uint(x.z) | __float_as_uint(x.w); }

// Polls up to kPieces parts of each of kUnits units until all have this use's mark; those beyond a unit's count read as zero. All loads are in flight at
// once. (Asking again for only what was not there yet is slower: what it costs in instructions is more than what it saves in trips.) T: float2 or float4, `offset` floats into a part,
// in every second unit `odd` more.
template <class T, int kUnits, int kPieces>
__device__ __forceinline__ void await_parts(const float* from, const Pieces (&of)[kUnits], int offset, uint32_t mark, const Place& b,
                                            T (&loaded)[kUnits][kPieces], int odd = 0) {
  // What is not asked for has the mark like what is: were it asked again whether a part is there, that answer would be kept meanwhile, and there is room for seven.
  const T none = turned(T{}, mark);
  ptx::Watch watch;
#pragma unroll 1
  for (;;) {
    uint32_t other = 0;
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const float* const first = from + static_cast<ptrdiff_t>(of[i].first) * kPartFloats + offset + i % 2 * odd;
#pragma unroll
      for (int n = 0; n < kPieces; ++n) loaded[i][n] = n < of[i].count ? ptx::load_relaxed(reinterpret_cast<const T*>(first + n * kPartFloats)) : none;
    }
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
#pragma unroll
      for (int n = 0; n < kPieces; ++n) {
        loaded[i][n] = turned(loaded[i][n], mark);
        other |= any_bit(loaded[i][n]);
      }
    }
    if ((passing(other) & 1u) == 0 || defect(Defect::kStalePart)) break;
    watch.look(b.fault(), ptx::Wait::kParts, b.instruction());
  }
}

// The sum of T at `offset` floats of each part of `tile`, in the order of k; kSlices slices of up to kPieces pieces in flight.
template <int kSlices, int kPieces, class T>
__device__ __forceinline__ T sum_parts(const Parts& parts, const Place& b, int tile, int offset) {
  const Tiling& t = parts.tiling;
  const uint32_t mark = mark_of(parts.uses, b);
  T sum{};
#pragma unroll 1
  for (int slice = 0; slice < t.slices; slice += kSlices) {
    Pieces of[kSlices];
#pragma unroll
    for (int i = 0; i < kSlices; ++i) of[i] = slice + i < t.slices ? pieces_of(t, (slice + i) * t.tiles + tile) : Pieces{0, 0};
#pragma unroll 1
    for (int piece = 0; piece < t.most; piece += kPieces) {
      T loaded[kSlices][kPieces];
      await_parts(parts.data, of, offset, mark, b, loaded);
#pragma unroll
      for (int i = 0; i < kSlices; ++i) {
#pragma unroll
        for (int n = 0; n < kPieces; ++n) sum = sum + loaded[i][n];
        of[i].first += kPieces, of[i].count -= kPieces;
      }
    }
  }
  return sum;
}

// The same of two rows at once, four values each: those at `offset`, and those two rows further.
template <int kSlices, int kPieces>
__device__ __forceinline__ void sum_two_rows(const Parts& parts, const Place& b, int tile, int offset, float4 (&sum)[2]) {
  const Tiling& t = parts.tiling;
  const uint32_t mark = mark_of(parts.uses, b);
  sum[0] = sum[1] = float4{};
#pragma unroll 1
  for (int slice = 0; slice < t.slices; slice += kSlices) {
    Pieces of[2 * kSlices];
#pragma unroll
    for (int i = 0; i < kSlices; ++i) of[2 * i] = of[2 * i + 1] = slice + i < t.slices ? pieces_of(t, (slice + i) * t.tiles + tile) : Pieces{0, 0};
#pragma unroll 1
    for (int piece = 0; piece < t.most; piece += kPieces) {
      float4 loaded[2 * kSlices][kPieces];
      await_parts(parts.data, of, offset, mark, b, loaded, 2 * kTileRows);
#pragma unroll
      for (int i = 0; i < 2 * kSlices; ++i) {
#pragma unroll
        for (int n = 0; n < kPieces; ++n) sum[i % 2] = sum[i % 2] + loaded[i][n];
        of[i].first += kPieces, of[i].count -= kPieces;
      }
    }
  }
}

// The same for kTiles tiles at once, two values each; a tile below 0 is left zero.
template <int kTiles>
__device__ __forceinline__ void sum_tiles(const Parts& parts, const Place& b, const int (&tile)[kTiles], int offset, float2 (&sum)[kTiles]) {
  constexpr int kPieces = 4;
  const Tiling& t = parts.tiling;
  const uint32_t mark = mark_of(parts.uses, b);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) sum[i] = float2{};
#pragma unroll 1
  for (int slice = 0; slice < t.slices; ++slice) {
    Pieces of[kTiles];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) of[i] = tile[i] >= 0 ? pieces_of(t, slice * t.tiles + tile[i]) : Pieces{0, 0};
#pragma unroll 1
    for (int piece = 0; piece < t.most; piece += kPieces) {
      float2 loaded[kTiles][kPieces];
      await_parts(parts.data, of, offset, mark, b, loaded);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int n = 0; n < kPieces; ++n) sum[i] = sum[i] + loaded[i][n];
        of[i].first += kPieces, of[i].count -= kPieces;
      }
    }
  }
}

// The same of a linear whose k is one slice and whose units have at most kMostPieces pieces: one trip. Four values of each of a lane's own tiles.
template <int kTiles>
__device__ __forceinline__ void sum_whole_tiles(const Parts& parts, const Place& b, const int (&tile)[kTiles], int offset, float4 (&sum)[kTiles]) {
  float4 loaded[kTiles][kMostPieces];
  Pieces of[kTiles];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) of[i] = pieces_of(parts.tiling, tile[i]);
  await_parts(parts.data, of, offset, mark_of(parts.uses, b), b, loaded);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) sum[i] = ((loaded[i][0] + loaded[i][1]) + loaded[i][2]) + loaded[i][3];
}

// --- inputs of the next linear

__device__ __forceinline__ float bf16_value(uint16_t code) { return __uint_as_float(static_cast<uint32_t>(code) << 16); }

// A group whose largest magnitude is `amax`: its scale is amax / 448, and values are multiplied by the inverse (the reference divides; the two differ by
// one unit in the last place before rounding to three bits).
struct Quantiser {
  float scale, inverse;
};
__device__ __forceinline__ Quantiser quantiser(float amax) {
  if (!(amax > 0.0f)) return {1.0f, 1.0f};
  return {amax * (1.0f / 448.0f), __fdividef(448.0f, amax)};
}

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
__device__ __forceinline__ float swiglu_value(float gate, float up) { return gate * sigmoid(gate) * up; }

}  // namespace kilotoken::stack
