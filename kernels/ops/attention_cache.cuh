// Attention over the cache: a unit is one chunk of keys with up to sixteen heads of a key/value head and all rows of the step, so that keys and values are
// fetched once for 128 queries. The fetching warp brings them through the ring of pages, old ones while the step's queries are still being made. A warp holds
// one row: the heads are the sixteen rows of its tensor-core tiles. Queries and weights are two BF16 parts each, all sums binary32.
// Chunks and blocks of 64 keys lie at absolute positions and a key that a row does not see adds an exact zero, so a row has the same bits alone and among eight.
// Source of the scheme: Dao, "FlashAttention-2", 2023 (one pass, running maximum, sums scaled when it grows).
#pragma once

#include <cstddef>

#include "attention.cuh"
#include "products.cuh"

namespace kilotoken::stack {

inline constexpr int kTileKeys = 16;  // that a warp scores before it weighs their values
static_assert(kMathThreads / 32 == kRows, "a warp a row");

// Rows [from, to) of a step, whose chunks are equally long. Rows on both sides of a multiple of kChunkSpan make two stretches, otherwise there is one.
struct Stretch {
  int to, keys;        // of a chunk
  int first, end;      // keys that any of its rows sees
  int lowest, chunks;
};
__device__ __forceinline__ Stretch stretch_from(const AttendArgs& args, int from, int start, int rows) {
  Stretch s;
  int unused;
  visible(args, from, start, rows, s.first, s.end);
  s.to = from + 1, s.keys = chunk_keys(s.end - 1, args.window);
#pragma unroll 1
  for (; s.to < rows; ++s.to) {
    int end;
    visible(args, s.to, start, rows, unused, end);
    if (chunk_keys(end - 1, args.window) != s.keys) break;
    s.end = end;
  }
  s.lowest = s.first / s.keys;
  s.chunks = (s.end - 1) / s.keys - s.lowest + 1;
  return s;
}

// A block of keys is pages of keys and one of values; pages hold what the cache holds, and behind its end whatever they held before. What the math warps have to
// know of it lies in the note of its first page (Shared::notes).
template <int kHeadDim>
inline constexpr int kPageKeys = kHeadDim == 192 ? 32 : 64;
static_assert(kPageKeys<192> * 192 * 2 <= kPageBytes && kPageKeys<128> * 128 * 2 <= kPageBytes && kKeyBlock * kValueDim * 2 <= kPageBytes);

__device__ __forceinline__ void fetch_rows(Block& b, const uint16_t* cache, int from, int count, int width) {
  const uint32_t bytes = max(count, 0) * width * 2;
  ptx::barrier_expect(&b.shared.page_full[b.page.place], bytes);
  if (bytes > 0) ptx::bulk_copy(b.shared.pages[b.page.place], cache + static_cast<size_t>(from) * width, bytes, &b.shared.page_full[b.page.place]);
  b.page.next();
}
__device__ __forceinline__ void await_place(const Block& b) { b.wait(&b.shared.page_empty[b.page.place], b.page.phase ^ 1, ptx::Wait::kRingEmpty); }

// One lane of the fetching warp. `ready`: waits for this step's own keys and values. The last page is empty and says so.
template <int kHeadDim, class Ready>
__device__ __forceinline__ void attend_fetch(const AttendArgs& args, Block& b, Ready ready) {
  const int rows = static_cast<int>(b.shared.rows), start = static_cast<int>(b.shared.start);
  const int of_kv = groups_of_kv(args.q_heads, args.kv_heads), groups = args.kv_heads * of_kv;
  bool waited = false;
  int loaded = -1;
  ptx::fence_async_global();
#pragma unroll 1
  for (int from = 0; from < rows;) {
    const Stretch s = stretch_from(args, from, start, rows);
#pragma unroll 1
    for (int u = b.index(); u < s.chunks * groups; u += b.count()) {
      const int behind = u / groups, group = u - behind * groups, kv = group / of_kv, chunk = s.lowest + behind;
      const uint16_t* keys = args.keys + static_cast<size_t>(kv) * args.max_context * kHeadDim;
      const uint16_t* values = args.values + static_cast<size_t>(kv) * args.max_context * kValueDim;
      const int begin = max(chunk * s.keys, s.first & ~(kKeyBlock - 1)), end = min((chunk + 1) * s.keys, s.end);
#pragma unroll 1
      for (int at = begin; at < end; at += kKeyBlock) {
        if (at + kKeyBlock > start && !waited) {
          ready();
          ptx::fence_async_global();
          waited = true;
        }
        const int count = min(kKeyBlock, end - at);
        await_place(b);
        b.shared.notes[b.page.place] = {at, at + count, begin, chunk, group, from, s.to, group != loaded, at + kKeyBlock >= end};
        loaded = group;
#pragma unroll
        for (int k = 0; k < kKeyBlock; k += kPageKeys<kHeadDim>) {
          if (k > 0) await_place(b);
          fetch_rows(b, keys, at + k, min(kPageKeys<kHeadDim>, count - k), kHeadDim);
        }
        await_place(b);
        fetch_rows(b, values, at, count, kValueDim);
      }
    }
    from = s.to;
  }
  await_place(b);
  b.shared.notes[b.page.place].end = 0;
  fetch_rows(b, nullptr, 0, 0, 0);
}

// Of the ring's page `ahead` places ahead.
__device__ __forceinline__ uint32_t page_address(const Block& b, int ahead) {
  const int place = b.page.place + ahead;
  return ptx::shared_address(b.shared.pages) + (place < kPages ? place : place - kPages) * kPageBytes;
}

// Heads `lane / 4` and + 8 of a row of the step: what a lane has of it while keys pass by.
struct RowState {
  float acc[kValueDim / 8][4];  // [dimensions 8 n ..][2 (lane % 4), + 1 of the first head, of the second]
  float top[2];                 // largest score so far, times log2 e / sqrt(head_dim)
  float total[2];               // the lane's share of the sum of exponentials
};

// Low parts of queries: the first four fragments of a row lie in shared memory that the math warps otherwise use between products, the others in registers.
inline constexpr int kLowShared = 4;
static_assert(offsetof(Shared, factor) - offsetof(Shared, finish) >= kRows * kLowShared * 512);
__device__ __forceinline__ uint4* low_queries(Shared& shared, uint32_t thread) { return reinterpret_cast<uint4*>(shared.finish) + thread / 32 * (kLowShared * 32) + thread % 32; }

// 32 keys from `at` on, of which the row sees [first, end). `keys`, `values`: shared-memory addresses of the first one's. Where a lane's row of the four matrices lies: keys
// 8 (lane / 16) + lane % 8 and dimensions 8 (lane / 8 % 2) .., values the other way round. The exchange of chunks touches bits 4 to 6 of an address: steps of two
// chunks are an exclusive or of bits 5 and 6, steps of eight an addition.
template <int kHeadDim>
__device__ __forceinline__ void attend_tile(RowState& r, const uint4 (&low)[kHeadDim / 16 - kLowShared], Block& b, uint32_t keys, uint32_t values, int at, int first, int end) {
  constexpr int kSteps = kHeadDim / 16, kTiles = kTileKeys / 8;
  const uint32_t thread = passing(b.thread), lane = thread % 32;
  keys += (lane / 16 * 8 + lane % 8) * kHeadDim * 2 + cache_chunk(lane, lane / 8 % 2) * 16;
  const uint4* const high = reinterpret_cast<const uint4*>(b.shared.input) + thread / 32 * (kSteps * 32) + lane;
  const uint4* const low_shared = low_queries(b.shared, thread);
  const float scale = rsqrtf(static_cast<float>(kHeadDim)) * kLog2E;
  float s[kTiles][4] = {};
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    uint4 q = high[i * 32];
    uint32_t k[kTiles / 2][4];
#pragma unroll
    for (int n = 0; n < kTiles / 2; ++n) load_rows(k[n], (keys ^ i % 4 * 32) + i / 4 * 128 + n * 16 * kHeadDim * 2);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) product_16x8(s[n], q.x, q.y, q.z, q.w, k[n / 2][n % 2 * 2], k[n / 2][n % 2 * 2 + 1]);
    if (i < kLowShared) q = low_shared[i * 32];
    else q = low[i - kLowShared];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) product_16x8(s[n], q.x, q.y, q.z, q.w, k[n / 2][n % 2 * 2], k[n / 2][n % 2 * 2 + 1]);
  }
  if (at < first || at + kTileKeys > end) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = at + n * 8 + static_cast<int>(lane % 4) * 2 + j % 2;
        if (key < first || key >= end) s[n][j] = -INFINITY;
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float grown = fmaxf(s[0][h * 2], s[0][h * 2 + 1]);
#pragma unroll
    for (int n = 1; n < kTiles; ++n) grown = fmaxf(grown, fmaxf(s[n][h * 2], s[n][h * 2 + 1]));
    grown = fmaxf(grown, __shfl_xor_sync(~0u, grown, 1));
    grown = fmaxf(r.top[h], fmaxf(grown, __shfl_xor_sync(~0u, grown, 2)) * scale);
    const float from = grown > -INFINITY ? grown : 0.0f;  // no key seen yet: every weight is 2^-inf
    const float factor = exp2_of(r.top[h] - from);
    r.top[h] = grown;
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int j = h * 2; j < h * 2 + 2; ++j) {
        s[n][j] = exp2_of(fmaf(s[n][j], scale, -from));
        sum += s[n][j];
      }
    }
    r.total[h] = fmaf(r.total[h], factor, sum);
    if (__any_sync(~0u, factor != 1.0f)) {
#pragma unroll
      for (int n = 0; n < kValueDim / 8; ++n) r.acc[n][h * 2] *= factor, r.acc[n][h * 2 + 1] *= factor;
    }
  }
  values += lane % 16 * kValueDim * 2 + cache_chunk(lane, lane / 16) * 16;
#pragma unroll
  for (int i = 0; i < kTileKeys / 16; ++i) {
    uint32_t w[4], rest[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float x = s[2 * i + j / 2][j % 2 * 2], y = s[2 * i + j / 2][j % 2 * 2 + 1];
      w[j] = bf16_pair(x, y);
      rest[j] = bf16_pair(x - __uint_as_float(w[j] << 16), y - __uint_as_float(w[j] & 0xffff0000u));
    }
#pragma unroll
    for (int n = 0; n < kValueDim / 8; n += 4) {
      uint32_t v[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) load_columns(v[m], (values ^ (n / 2 + m) % 4 * 32) + (n / 2 + m) / 4 * 128 + i * 16 * kValueDim * 2);
#pragma unroll
      for (int m = 0; m < 4; ++m) product_16x8(r.acc[n + m], w[0], w[1], w[2], w[3], v[m / 2][m % 2 * 2], v[m / 2][m % 2 * 2 + 1]);
#pragma unroll
      for (int m = 0; m < 4; ++m) product_16x8(r.acc[n + m], rest[0], rest[1], rest[2], rest[3], v[m / 2][m % 2 * 2], v[m / 2][m % 2 * 2 + 1]);
    }
  }
}

// Keys [first, end) that `row` sees, none if the chunk is not cut for it.
__device__ __forceinline__ void seen_by(const AttendArgs& args, const Block& b, const Note& note, int row, int& first, int& end) {
  first = end = 0;
  if (row >= note.from && row < note.to) visible(args, row, static_cast<int>(b.shared.start), static_cast<int>(b.shared.rows), first, end);
}

template <int kHeadDim>
__device__ __forceinline__ void attend(const AttendArgs& args, Block& b) {
  constexpr int kSteps = kHeadDim / 16, kKeyPages = kKeyBlock / kPageKeys<kHeadDim>;
  constexpr uint32_t kRowBytes = kSteps * 512;  // of a row's queries, one part
  static_assert(kRowBytes * kRows <= kInputBytes);
  uint4 low[kSteps - kLowShared] = {};  // without a value they would be alive all through the kernel
#pragma unroll 1
  for (bool before = false;; before = true) {
    b.wait(&b.shared.page_full[b.page.place], b.page.phase, ptx::Wait::kRingFull);
    const Note* note = &b.shared.notes[b.page.place];
    if (note->end == 0) break;
    if (note->new_group) {
      const int rows = static_cast<int>(b.shared.rows), thread = static_cast<int>(passing(b.thread));
      const uint16_t* const from = args.q + query_index(note->group, 0, 0, 0, 0, kHeadDim);
      if (before) math_sync();  // the queries before are read
      if (thread == 0) {
        expect_input(b, rows * kRowBytes);
        ptx::bulk_copy(b.shared.input, from, rows * kRowBytes, &b.shared.input_full);
      }
      const uint4* const second = reinterpret_cast<const uint4*>(from) + (kRows + thread / 32) * kSteps * 32 + thread % 32;
      uint4* const low_shared = low_queries(b.shared, thread);
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const uint4 x = thread / 32 < rows ? __ldcg(second + i * 32) : uint4{};
        if (i < kLowShared) low_shared[i * 32] = x;
        else low[i - kLowShared] = x;
      }
      await_input(b);
    }
    RowState r;
#pragma unroll
    for (int n = 0; n < kValueDim / 8; ++n) r.acc[n][0] = r.acc[n][1] = r.acc[n][2] = r.acc[n][3] = 0.0f;
    r.top[0] = r.top[1] = -INFINITY, r.total[0] = r.total[1] = 0.0f;
#pragma unroll 1
    for (;;) {
      note = &b.shared.notes[b.page.place];
      const uint8_t* page[kKeyPages + 1];
      await_pages(b, page);
      const int at = note->at;
      if (const int count = note->end - at; count < kKeyBlock) {  // places that nobody has written: any bits, which a weight of zero does not silence
        uint4* const values = reinterpret_cast<uint4*>(const_cast<uint8_t*>(page[kKeyPages]));
        for (int i = count * (kValueDim / 8) + static_cast<int>(passing(b.thread)); i < kKeyBlock * (kValueDim / 8); i += kMathThreads) values[i] = uint4{};
        ptx::fence_async_shared();
        math_sync();
      }
      int first, end;
      seen_by(args, b, *note, passing(b.thread) / 32, first, end);
#pragma unroll 1
      for (int tile = 0; tile < kKeyBlock; tile += kTileKeys) {
        if (at + tile >= end || at + tile + kTileKeys <= first) continue;
        attend_tile<kHeadDim>(r, low, b, page_address(b, tile / kPageKeys<kHeadDim>) + tile % kPageKeys<kHeadDim> * kHeadDim * 2, page_address(b, kKeyPages) + tile * kValueDim * 2,
                              at + tile, first, end);
      }
      if (note->last) break;
      release_pages<kKeyPages + 1>(b);
    }
    const int thread = static_cast<int>(passing(b.thread)), row = thread / 32, lane = thread % 32;
    int first, end;
    seen_by(args, b, *note, row, first, end);
    if (first < note->end && end > note->begin) {
      const int shared_by = args.q_heads / args.kv_heads, groups = groups_of_kv(args.q_heads, args.kv_heads);
      const int of_kv = note->group % groups * kGroupHeads + lane / 4, head = note->group / groups * shared_by + of_kv;
      float* to = args.partial + ((static_cast<size_t>(note->chunk % kMostChunks) * args.q_heads + head) * kRows + row) * kPartialFloats;
#pragma unroll
      for (int h = 0; h < 2; ++h, to += 8 * kRows * kPartialFloats) {
        float total = r.total[h] + __shfl_xor_sync(~0u, r.total[h], 1);
        total += __shfl_xor_sync(~0u, total, 2);
        if (of_kv + h * 8 >= shared_by) continue;
#pragma unroll
        for (int n = 0; n < kValueDim / 8; ++n) *reinterpret_cast<float2*>(to + n * 8 + lane % 4 * 2) = make_float2(r.acc[n][h * 2], r.acc[n][h * 2 + 1]);
        if (lane % 4 == 0) *reinterpret_cast<float2*>(to + kValueDim) = make_float2(r.top[h], total);
      }
    }
    release_pages<kKeyPages + 1>(b);
  }
  release_pages<1>(b);
}

}  // namespace kilotoken::stack
