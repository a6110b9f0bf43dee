// The first half of the expert pair: gate and up rows of the chosen experts, and silu(gate) * up as E4M3. Its loop over pages is where most of a step's bytes pass.
// Who makes what stands in pages.h: tiles in rounds, what is left over dealt out by segments of k.
#pragma once

#include "experts.cuh"

namespace kilotoken::stack {

// Segments that a block makes, of all chosen experts' tiles in the order of ranks: [begin, end) of the tiles that are dealt out by segments, then a whole tile a round.
// Of the first, those of a tile that another block finishes come before the rest, so that no block waits for its neighbours' last product.
struct UpShare {
  int begin, end;
  int tail;       // [tail, end): of a tile that the block does not finish
  int dealt;      // tiles that are dealt out by segments
  int in_rounds;  // segments behind them
  __device__ __forceinline__ int count() const { return end - begin + in_rounds; }
};

__device__ __forceinline__ UpShare up_share(const ExpertsUpArgs& args, int block, int blocks, int experts) {
  const int tiles = experts * args.tiles, rounds = tiles / args.by_blocks;
  UpShare share;
  share.dealt = tiles - rounds * blocks;
  share.in_rounds = rounds * args.segments;
  share.begin = block * share.dealt * args.segments / args.by_blocks, share.end = (block + 1) * share.dealt * args.segments / args.by_blocks;
  share.tail = max(share.begin, share.end / args.by_segments * args.segments);
  return share;
}

// The n-th segment that the block makes.
__device__ __forceinline__ int nth_segment(const ExpertsUpArgs& args, const UpShare& share, int block, int blocks, int n) {
  const int of_dealt = share.end - share.begin;
  if (n < of_dealt) return share.tail + n < share.end ? share.tail + n : share.tail + n - of_dealt;
  const int round = (n - of_dealt) / args.by_segments;
  return (share.dealt + round * blocks + block - round) * args.segments + n - of_dealt;
}

// 128 of k: four products in flight, each scaled by its own power of two, then all by the tokens' activation scales.
struct Quarter {
  uint32_t a[4][4];
  float d[4][4];
};

__device__ __forceinline__ void unpack(const uint8_t* fragments, Quarter& q) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const uint4 w = *reinterpret_cast<const uint4*>(fragments + j * 2048);
    q.a[2 * j][0] = first_codes(w.x), q.a[2 * j][1] = second_codes(w.x);
    q.a[2 * j][2] = first_codes(w.y), q.a[2 * j][3] = second_codes(w.y);
    q.a[2 * j + 1][0] = first_codes(w.z), q.a[2 * j + 1][1] = second_codes(w.z);
    q.a[2 * j + 1][2] = first_codes(w.w), q.a[2 * j + 1][3] = second_codes(w.w);
  }
}

__device__ __forceinline__ void multiply(Quarter& q, ptx::Operand x) {
  ptx::products_begin();
#pragma unroll
  for (int i = 0; i < 4; ++i) ptx::product_e4m3(q.d[i], q.a[i], x + i * 256);
  ptx::products_commit();
}

__device__ __forceinline__ void promote(const Quarter& q, uint32_t scales0, uint32_t scales8, float2 token, float (&acc)[4]) {
  const float s0[4] = {scale_byte<0>(scales0), scale_byte<1>(scales0), scale_byte<2>(scales0), scale_byte<3>(scales0)};
  const float s8[4] = {scale_byte<0>(scales8), scale_byte<1>(scales8), scale_byte<2>(scales8), scale_byte<3>(scales8)};
  float t[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* s = i < 2 ? s0 : s8;
    t[i] = q.d[0][i] * s[0];
#pragma unroll
    for (int j = 1; j < 4; ++j) t[i] = fmaf(q.d[j][i], s[j], t[i]);
  }
  acc[0] = fmaf(t[0], token.x, acc[0]);
  acc[1] = fmaf(t[1], token.y, acc[1]);
  acc[2] = fmaf(t[2], token.x, acc[2]);
  acc[3] = fmaf(t[3], token.y, acc[3]);
}

// The products of quarters that are all in flight, from pages of kPageK columns, added as they arrive. `tokens`: the activation scales of the first.
template <int kPageK, int kLeft, int kAll>
__device__ __forceinline__ void promote_quarters(Block& b, bool rehearsal, const Quarter (&q)[kAll], const uint32_t (&scales0)[kAll], const uint32_t (&scales8)[kAll], const float2* tokens,
                                                 float (&acc)[4]) {
  constexpr int i = kAll - 1 - kLeft, kOfPage = kPageK / 256;
  ptx::products_wait<kLeft>();
  if constexpr ((i + 1) % kOfPage == 0) {
    __syncwarp();
    if (b.thread % 32 == 0 && !rehearsal) ptx::barrier_arrive(&b.shared.page_empty[b.page.place]);
    b.page.next(rehearsal ? 0 : 1);
  }
  promote(q[i], scales0[i], scales8[i], tokens[(i / kOfPage * (kPageK / kQuantGroup) + i % kOfPage) * (kRows / 2)], acc);
  if constexpr (kLeft > 0) promote_quarters<kPageK, kLeft - 1, kAll>(b, rehearsal, q, scales0, scales8, tokens, acc);
}

// One warpgroup's halves of the next kCount up pages of kPageK columns, the first of which is page `page_of_tile`. A rehearsal takes the inputs for pages.
template <int kPageK, int kCount>
__device__ __forceinline__ void multiply_up_pages(Block& b, bool rehearsal, int page_of_tile, float (&acc)[4]) {
  constexpr int kQuarters = kPageK / 256, kAll = kCount * kQuarters;
  const int half = b.thread / 128, warp = b.thread / 32 % 4, lane = b.thread % 32;
  const uint8_t* page[kCount];
  await_pages(b, page, !rehearsal);
#pragma unroll
  for (int i = 0; i < kCount; ++i) page[i] = rehearsal ? b.shared.input : page[i];
  Quarter q[kAll];
  uint32_t s0[kAll], s8[kAll];
  const int first_group = page_of_tile * (kPageK / kQuantGroup) + half * (kPageK / 256);  // of 128 k
  const ptx::Operand inputs = ptx::uniform_operand(ptx::shared_address(b.shared.input) + first_group * kQuantGroup * kRows, 128, 128);
  const float2* const tokens = reinterpret_cast<const float2*>(&b.shared.input_scales[first_group * kRows + lane % 4 * 2]);
#pragma unroll
  for (int i = 0; i < kAll; ++i) {
    const uint8_t* const from = page[i / kQuarters];
    const uint8_t* const scales = from + 32 * kPageK + (half * 64 + warp * 16 + lane / 4) * (kPageK / 64) + i % kQuarters * 4;
    s0[i] = *reinterpret_cast<const uint32_t*>(scales);
    s8[i] = *reinterpret_cast<const uint32_t*>(scales + 8 * (kPageK / 64));
    unpack(from + half * (16 * kPageK) + warp * 512 + lane * 16 + i % kQuarters * 4096, q[i]);
    multiply(q[i], inputs + (i / kQuarters * (kPageK / kQuantGroup) + i % kQuarters) * kQuantGroup * kRows);
  }
  promote_quarters<kPageK, kAll - 1, kAll>(b, rehearsal, q, s0, s8, tokens, acc);
}

// The same of E4M3 pages.
template <int kCount>
__device__ __forceinline__ void multiply_up_pages_e4m3(Block& b, int page_of_tile, float (&acc)[4]) {
  const uint8_t* page[kCount];
  await_pages(b, page);
  PageProducts<Format::kE4m3> p[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) p[i].prepare(b, page[i], page_of_tile + i);
  ptx::products_begin();
#pragma unroll
  for (int i = 0; i < kCount; ++i) p[i].multiply(operands_of<Format::kE4m3>(b, page[i], page_of_tile + i));
  ptx::products_commit();
  ptx::products_wait<0>();
  release_pages<kCount>(b);
#pragma unroll
  for (int i = 0; i < kCount; ++i) p[i].promote(acc);
}

// The math warps have seen done what came before; from here on the finishing warps may read what it made. The math warps do not wait: they come here again behind down
// products, which wait for all blocks' finishing warps.
__device__ __forceinline__ void finishing_may_begin() { ptx::group_arrive<3, kMathThreads + kFinishThreads>(); }
__device__ __forceinline__ void await_begin() { ptx::group_sync<3, kMathThreads + kFinishThreads>(); }

// Pages [page, end) of a tile.
template <int kPageK>
__device__ __forceinline__ void multiply_up_segment(Block& b, bool rehearsal, int page, int end, float (&acc)[4]) {
#pragma unroll 1
  for (; page + 2 <= end; page += 2) multiply_up_pages<kPageK, 2>(b, rehearsal, page, acc);
  if (page < end) multiply_up_pages<kPageK, 1>(b, rehearsal, page, acc);
}
__device__ __forceinline__ void multiply_up_segment_e4m3(Block& b, int page, int end, float (&acc)[4]) {
#pragma unroll 1
  for (; page + 2 <= end; page += 2) multiply_up_pages_e4m3<2>(b, page, acc);
  if (page < end) multiply_up_pages_e4m3<1>(b, page, acc);
}

template <class Ready>
__device__ __forceinline__ void up_multiply(const ExpertsUpArgs& args, Block& b, Ready ready) {
  finishing_may_begin();
  b.phases ^= 1u << 3;
  const int k = args.segments * args.pages_per_segment * args.page_k;
  if (b.thread == 0) {
    const uint8_t* const codes = args.codes;
    const float* const scales = args.scales;
    ready();
    const bool known = ptx::barrier_passed_already(&b.shared.experts_full, b.phases >> 2 & 1);
    b.shared.experts_known = known;
    // Otherwise the router still chooses, and inputs that nobody can use yet would be in its parts' way. A matter of time alone: where a wait was left out, a later one
    // may pass too early, and nothing rests on it.
    if (!known) b.wait(&b.shared.finish_began, (b.phases >> 3 & 1) ^ 1, ptx::Wait::kEpilogueFull);
    expect_input(b, k * kRows + k / kQuantGroup * kRows * 4);
    ptx::bulk_copy(b.shared.input, codes, k * kRows, &b.shared.input_full);
    ptx::bulk_copy(b.shared.input_scales, scales, k / kQuantGroup * kRows * 4, &b.shared.input_full);
  }
  await_input(b);
  // While the router still chooses: the loop's instructions are not in the cache (each layer runs more of them than it holds), and fetching them takes as long as two
  // pages in good supply; so two pages that are none are multiplied meanwhile and forgotten.
  bool rehearsal = !b.shared.experts_known;
  int segment = 0, first = 0;     // of the tile; of the first behind the tile that the block does not finish
  int left = 1, behind_tail = 0;  // segments to go; of them behind that tile's
  const auto begin = [&] {
    const int count = await_experts(b);
    if (b.thread == 0 && b.index() == 0) b.state->touched[args.mixture_layer] = static_cast<uint32_t>(count);
    const UpShare share = up_share(args, b.index(), b.count(), count);
    left = share.count(), behind_tail = left - (share.end - share.tail);
    first = share.tail > share.begin ? share.begin - share.begin / args.by_segments * args.segments : 0;
    segment = left == behind_tail ? first : share.tail - share.tail / args.by_segments * args.segments;
  };
  if (!rehearsal) begin();
#pragma unroll 1
  while (left > 0) {
    float acc[4] = {};
    const int page = segment * args.pages_per_segment, end = rehearsal ? 2 : page + args.pages_per_segment;
    if (args.storage == Storage::kE4m3) {
      if (!rehearsal) multiply_up_segment_e4m3(b, page, end, acc);
    } else {
      if (args.page_k == 512) multiply_up_segment<512>(b, rehearsal, page, end, acc);
      else multiply_up_segment<256>(b, rehearsal, page, end, acc);
    }
    if (!rehearsal) {
      hand_over(b, acc);
      --left;
      segment = segment + 1 == args.segments ? 0 : segment + 1;
      if (left == behind_tail) segment = first;
      continue;
    }
    rehearsal = false;
    begin();
  }
}

// A segment's sums on their way to the block that finishes the tile: two times 64 x 16 bytes, a thread's own side by side with its neighbours'.
__device__ __forceinline__ void store_piece(float4* pieces, int block, int place, const Sums& sums, uint32_t mark) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 x = sums.of[i];
    pieces[((block * kMostCut + place) * 2 + i) * kFinishThreads] = make_float4(marked(x.x, mark), marked(x.y, mark), marked(x.z, mark), marked(x.w, mark));
  }
}

// Of `segment`, from whichever block has made it.
__device__ __forceinline__ Sums await_piece(const ExpertsUpArgs& args, const float4* pieces, const Block& b, int segment, const UpShare& own, int experts, uint32_t mark) {
  const int block = ((segment + 1) * b.count() - 1) / (own.dealt * args.segments);
  const float4* const from = pieces + (block * kMostCut + segment - up_share(args, block, b.count(), experts).tail) * 2 * kFinishThreads;
  ptx::Watch watch;
  Sums sums;
  for (;;) {
#pragma unroll
    for (int i = 0; i < 2; ++i) sums.of[i] = turned(ptx::load_relaxed(from + i * kFinishThreads), mark);
    if (((any_bit(sums.of[0]) | any_bit(sums.of[1])) & 1u) == 0 || defect(Defect::kStalePart)) return sums;
    watch.look(b.fault(), ptx::Wait::kParts, b.instruction());
  }
}

// A segment's sums have the bits that they would have had on that way.
__device__ __forceinline__ void add(Sums& sums, const Sums& segment) {
#pragma unroll
  for (int i = 0; i < 2; ++i) sums.of[i] = sums.of[i] + unmarked(segment.of[i]);
}

// silu(gate) * up, to E4M3 with a scale for each token and 32 of h; the router's weight and code_unit of the down projection go into the scale.
// What one thread calls: `report_early` when all of the block's tiles are made but that of the last round, `await_early` until all blocks have said so; false: nobody asks.
template <class Report, class Await>
__device__ void up_finish(const ExpertsUpArgs& args, Block& b, Report report_early, Await await_early) {
  const int warp = b.thread % kFinishThreads / 32, lane = b.thread % 32, column = lane % 4 * 2;
  // Meanwhile the math warps multiply: the norm's factors, and how much each row gives to each expert.
  const int warps = kFinishThreads / 32;
  await_begin();
  if (b.thread % kFinishThreads == 0) ptx::barrier_arrive(&b.shared.finish_began);
#pragma unroll 1
  for (int row = warp; row < kRows; row += warps) {
    const float factor = norm_factor(args.norm, norm_squares(args.norm, row));
    if (lane == 0) b.shared.factor[row] = factor;
  }
  const int count = await_experts(b);
#pragma unroll 1
  for (int i = b.thread % kFinishThreads; i < count * kRows; i += kFinishThreads) b.shared.expert_weight[i / kRows][i % kRows] = 0.0f;
  finish_sync();
  {
    static_assert(kFinishThreads == kRows * kMaxExpertsPerToken, "a thread a choice");
    const int row = b.thread % kRows, n = b.thread % kFinishThreads / kRows;
    if (row < static_cast<int>(b.shared.rows) && n < args.per_token - defect(Defect::kExpertDropped)) {
      const uint32_t mark = mark_of(args.uses, b);
      ptx::Watch watch;
      uint2 one;
      while (one = ptx::load_relaxed(&args.choice->experts[row][n]), (one.x >> 31 ^ mark) | (one.y >> 31 ^ mark))
        watch.look(b.fault(), ptx::Wait::kExperts, b.instruction());
      b.shared.expert_weight[b.shared.expert_rank[one.x & 0xffffu]][row] = __uint_as_float(one.y & 0x7fffffffu);
    }
  }
  finish_sync();
  const UpShare share = up_share(args, b.index(), b.count(), count);
  const uint32_t pieces_mark = mark_of(args.pieces_uses, b);
  float4* const pieces = reinterpret_cast<float4*>(args.pieces) + b.thread % kFinishThreads;
  const float unit = code_unit(args.storage);
  // A place that this use leaves empty would still be that of the use before the last.
  if (args.segments > 1) {
#pragma unroll 1
    for (int i = share.end - share.tail; i < kMostCut; ++i) store_piece(pieces, b.index(), i, Sums{}, pieces_mark);
  }
  const int last_round = share.in_rounds > 0 ? share.count() - args.segments : 0;
  if (last_round == 0 && b.thread % kFinishThreads == 0) report_early();
  Sums sums{};
#pragma unroll 1
  for (int n = 0; n < share.count(); ++n) {
    const int segment = nth_segment(args, share, b.index(), b.count(), n), tile = segment / args.by_segments, of_tile = segment - tile * args.segments;
    if (n == last_round && n > 0 && b.thread % kFinishThreads == 0) report_early();
    if (n < share.end - share.tail) {
      store_piece(pieces, b.index(), segment - share.tail, take_over(b), pieces_mark);
      continue;
    }
    if (segment == share.begin && of_tile > 0) {
#pragma unroll 1
      for (int i = 0; i < of_tile; ++i) add(sums, await_piece(args, pieces, b, segment - of_tile + i, share, count, pieces_mark));
    }
    add(sums, take_over(b));
    if (n + 1 == share.count() && b.thread % kFinishThreads == 0) {
      const int early = early_experts(args, count, b.count()), unit = b.index() * args.down_units_of_block;
      if (early > 0 && unit < args.down_units && await_early()) send_h(args.h, unit / args.down_by_tiles, b, 0, early, &b.shared.input_full);
    }
    if (of_tile + 1 < args.segments) continue;
    const int rank = tile / args.by_tiles, of_expert = tile - rank * args.tiles;
    float h[2][2];  // [i][column]
    float largest[2] = {};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float factor = b.shared.factor[column + c] * unit;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        h[i][c] = swiglu_value((c == 0 ? sums.of[i].x : sums.of[i].y) * factor, (c == 0 ? sums.of[i].z : sums.of[i].w) * factor);
        largest[c] = fmaxf(largest[c], fabsf(h[i][c]));
      }
#pragma unroll
      for (int stride = 4; stride < 32; stride *= 2) largest[c] = fmaxf(largest[c], __shfl_xor_sync(~0u, largest[c], stride));
    }
    if (lane < 4) b.shared.finish_scratch[warp][column] = largest[0], b.shared.finish_scratch[warp][column + 1] = largest[1];
    finish_sync();
    Quantiser q[2];
#pragma unroll
    for (int c = 0; c < 2; ++c)
      q[c] = quantiser(fmaxf(b.shared.finish_scratch[0][column + c], b.shared.finish_scratch[1][column + c]));
    uint8_t* slice = args.h + (static_cast<size_t>(of_expert / 2) * kMaxStepExperts + rank) * kDownInputBytes;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int k = of_expert % 2 * kUpperHalf + (warp + 2 * i) * 8 + lane / 4;
      const uint16_t codes = e4m3_pair(h[i][0] * q[0].inverse, h[i][1] * q[1].inverse);
      slice[down_input_offset(column, k)] = static_cast<uint8_t>(codes);
      slice[down_input_offset(column + 1, k)] = static_cast<uint8_t>(codes >> 8);
    }
    if (warp == 0 && lane < 4) {
      float* scales = reinterpret_cast<float*>(slice + kDownK * kRows) + of_expert % 2 * kRows;
#pragma unroll
      for (int c = 0; c < 2; ++c) scales[column + c] = q[c].scale * unit * b.shared.expert_weight[rank][column + c];
    }
    sums = Sums{};
    finish_sync();  // finish_scratch is read
  }
}

// The fetching warp; experts are known.
__device__ inline void up_fetch(const ExpertsUpArgs& args, Block& b, uint64_t policy, int count) {
  const UpShare share = up_share(args, b.index(), b.count(), count);
  const uint32_t bytes = up_page_bytes(args.storage, args.page_k), segment_bytes = args.pages_per_segment * bytes;
  if (b.thread % 32 == 0) {
#pragma unroll 1
    for (int n = 0; n < share.count(); ++n) {
      const int segment = nth_segment(args, share, b.index(), b.count(), n), rank = segment / args.by_segments / args.by_tiles;
      const uint8_t* from = args.pages + (static_cast<size_t>(b.shared.experts[rank] - rank) * args.tiles * args.segments + segment) * segment_bytes;
#pragma unroll 1
      for (int page = 0; page < args.pages_per_segment; ++page, from += bytes) {
        uint8_t* to = claim_page(b, bytes);
        ptx::bulk_copy(to, from, bytes, &b.shared.page_full[b.page.place], policy);
        b.page.next();
      }
    }
  }
  b.page.place = __shfl_sync(~0u, b.page.place, 0);
  b.page.phase = __shfl_sync(~0u, b.page.phase, 0);
}

}  // namespace kilotoken::stack
