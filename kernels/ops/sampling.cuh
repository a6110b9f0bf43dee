// From logits to tokens on the device, under the rules of core/ and with the same numbers as every engine here (core/random.h): rows in
// binary64, filters, argmax, inverse CDF, Gumbel, coins. One block a row. Sums over the vocabulary have one fixed order: each thread a
// consecutive range, then the threads in ascending order.
#pragma once

#include "block.cuh"
#include "core/random.h"
#include "core/ties.h"

namespace kilotoken::stack {

inline constexpr uint32_t kNoLogit = 100, kBadLogit = 101;  // Fault::code

// --- a value per thread, over the block

__device__ __forceinline__ bool any_thread(Place b, bool x) {
  const bool any = __any_sync(~0u, x);
  if (threadIdx.x % 32 == 0) b.shared.wide[threadIdx.x / 32] = any;
  math_sync();
  bool result = false;
#pragma unroll 1
  for (int w = 0; w < kMathThreads / 32; ++w) result = result || b.shared.wide[w] != 0.0;
  math_sync();
  return result;
}

__device__ __forceinline__ double ordered_sum(Place b, double x) {
  b.shared.wide[threadIdx.x] = x;
  math_sync();
  if (threadIdx.x < 32) {
    double sum = 0.0;
#pragma unroll 1
    for (int i = 0; i < kMathThreads / 32; ++i) sum += b.shared.wide[threadIdx.x * (kMathThreads / 32) + i];
    double total = 0.0;
#pragma unroll 1
    for (int i = 0; i < 32; ++i) total += __shfl_sync(~0u, sum, i);
    if (threadIdx.x == 0) b.shared.wide[kMathThreads] = total;
  }
  math_sync();
  const double total = b.shared.wide[kMathThreads];
  math_sync();
  return total;
}

// The first in rank order of one (value, id) a thread.
template <class T>
__device__ __forceinline__ int best_of(Place b, T value, int id) {
#pragma unroll
  for (int stride = 16; stride > 0; stride /= 2) {
    const T other = __shfl_xor_sync(~0u, value, stride);
    const int other_id = __shfl_xor_sync(~0u, id, stride);
    if (ranks_before(other, other_id, value, id)) value = other, id = other_id;
  }
  int* ids = reinterpret_cast<int*>(b.shared.small);
  if (threadIdx.x % 32 == 0) b.shared.wide[threadIdx.x / 32] = static_cast<double>(value), ids[threadIdx.x / 32] = id;
  math_sync();
  double best = b.shared.wide[0];
  int best_id = ids[0];
#pragma unroll 1
  for (int w = 1; w < kMathThreads / 32; ++w)
    if (ranks_before(b.shared.wide[w], ids[w], best, best_id)) best = b.shared.wide[w], best_id = ids[w];
  math_sync();
  return best_id;
}

// Ids [first, end) of this thread.
struct Ids {
  int first, end;
};
__device__ __forceinline__ Ids own_ids(int vocab) {
  const int each = (vocab + kMathThreads - 1) / kMathThreads;
  const int first = min(static_cast<int>(threadIdx.x) * each, vocab);
  return {first, min(first + each, vocab)};
}

// --- logits

// To rank `to`: the largest logit of a tile and its id.
__device__ __forceinline__ void store_best(const Place& b, int to, int place, float value, int id, Uses uses) {
  ptx::store_relaxed_system(b.comm().best[to] + place,
                            static_cast<uint64_t>(static_cast<uint32_t>(id) | mark_of(uses, b) << 31) << 32 | __float_as_uint(value));
}

// The finishing warps, four rows each: half a warp a row, two at a time. Math warps have other things to do.
__device__ __forceinline__ void logits(const LogitsArgs& args, Place b, int place) {
  const int lane = b.thread % 32, quad = lane % 16, first_row = b.thread % kFinishThreads / 32 * 4;
  const int tiles = args.parts.tiling.tiles, all_tiles = (args.vocab + kTileRows - 1) / kTileRows;
#pragma unroll 1
  for (int tile = place; tile < tiles; tile += b.count()) {
    float4 sums[2];
    const int row = first_row + lane / 16, offset = row * kTileRows + quad * 4;
    if (args.parts.tiling.most == 1) sum_two_rows<4, 1>(args.parts, b, tile, offset, sums);
    else sum_two_rows<1, 4>(args.parts, b, tile, offset, sums);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float factor = 1.0f;
      if (args.norm.squares != nullptr) {
        const float even = norm_factor(args.norm, norm_squares(args.norm, first_row + 2 * i)), odd = norm_factor(args.norm, norm_squares(args.norm, first_row + 2 * i + 1));
        factor = lane < 16 ? even : odd;
      }
      const float of[4] = {sums[i].x, sums[i].y, sums[i].z, sums[i].w};
      const int column = tile * kTileRows + quad * 4;
      float best = -INFINITY;
      int id = args.first + column;
      bool bad = false;
      float* const to = args.logits + static_cast<size_t>(row + 2 * i) * args.vocab + args.first + column;
#pragma unroll
      for (int n = 0; n < 4; ++n)
        if (column + n < args.rows) to[n] = of[n] * factor;
      if (args.best_uses == kNobodyAsks) continue;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int token = args.first + column + n;
        if (column + n >= args.rows) continue;
        const float x = of[n] * factor;
        bad = bad || !(x < INFINITY);
        if (ranks_before(x, token, best, id)) best = x, id = token;
      }
#pragma unroll
      for (int stride = 8; stride > 0; stride /= 2) {
        const float other = __shfl_xor_sync(~0u, best, stride);
        const int other_id = __shfl_xor_sync(~0u, id, stride);
        if (ranks_before(other, other_id, best, id)) best = other, id = other_id;
      }
      bad = (__ballot_sync(~0u, bad) >> (lane & 16) & 0xffffu) != 0;
      if (quad < b.comm().ranks) store_best(b, quad, (row + 2 * i) * all_tiles + args.first / kTileRows + tile, bad ? NAN : best, id, args.best_uses);
    }
  }
}

// The row's greedy token, from the best of each tile of all GPUs; -1 - kBadLogit or -1 - kNoLogit for a row that cannot be decoded.
__device__ __forceinline__ int greedy_token(Place b, int row, int tiles, Uses uses) {
  const uint64_t* best = b.comm().best[b.comm().rank] + static_cast<size_t>(row) * tiles;
  const uint32_t mark = mark_of(uses, b);
  float value = -INFINITY;
  int id = 0x7fffffff;
  bool bad = false;
#pragma unroll 1
  for (int first = threadIdx.x; first < tiles; first += 4 * kMathThreads) {
    uint64_t of[4];
    ptx::Watch watch;
    uint32_t other;
    do {
      other = 0;
#pragma unroll
      for (int n = 0; n < 4; ++n)
        if (first + n * kMathThreads < tiles) of[n] = ptx::load_relaxed_system(best + first + n * kMathThreads);
#pragma unroll
      for (int n = 0; n < 4; ++n)
        if (first + n * kMathThreads < tiles) other |= static_cast<uint32_t>(of[n] >> 63) ^ mark;
      if (other != 0) watch.look(b.fault(), ptx::Wait::kPeer, b.instruction());
    } while (other != 0);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      if (first + n * kMathThreads >= tiles) break;
      const float x = __uint_as_float(static_cast<uint32_t>(of[n]));
      const int at = static_cast<int>(of[n] >> 32 & 0x7fffffff);
      bad = bad || x != x;
      if (ranks_before(x, at, value, id)) value = x, id = at;
    }
  }
  const int token = best_of(b, value, id);
  const bool refused = any_thread(b, bad), alive = any_thread(b, value > -INFINITY);
  return refused ? -1 - static_cast<int>(kBadLogit) : alive ? token : -1 - static_cast<int>(kNoLogit);
}

__device__ __forceinline__ void refuse_row(Place b, int token) {
  if (token < 0 && threadIdx.x == 0) ptx::stop(b.fault(), static_cast<ptx::Wait>(-1 - token), b.instruction());
}

// --- processed rows

// p of the row: temperature, top-k (ties keep the lowest ids), softmax, top-p (the shortest prefix, by probability and then id, whose mass reaches
// it), renormalised. `top`: the largest logit. Order of filters and ties as in core/ and the CPU engine.
__device__ __noinline__ void processed_row(Place b, const float* logits, int vocab, int top, double* p) {
  const double temperature = b.state->temperature, top_p = b.state->top_p;
  const Ids own = own_ids(vocab);
  const double highest = static_cast<double>(__ldcg(logits + top));
  const int top_k = static_cast<int>(b.state->top_k);
  const bool limited = top_k > 0 && top_k < vocab;
  uint32_t key_k = 0;       // tokens with a larger key are kept, and `ties_k` of those with this key
  int ties_k = vocab;
  if (limited) {
#pragma unroll 1
    for (int bit = 31; bit >= 0; --bit) {  // the largest key that at least top_k tokens reach
      const uint32_t candidate = key_k | 1u << bit;
      int count = 0;
#pragma unroll 1
      for (int i = own.first; i < own.end; ++i) count += order_key(__ldcg(logits + i)) >= candidate;
      if (ordered_sum(b, count) >= top_k) key_k = candidate;
    }
    int above = 0;
#pragma unroll 1
    for (int i = own.first; i < own.end; ++i) above += order_key(__ldcg(logits + i)) > key_k;
    ties_k = top_k - static_cast<int>(ordered_sum(b, above));
  }
  // Which of this thread's tokens with the key `key` are among the first `ties` in id order.
  const auto ties_before = [&](uint32_t key, auto counts) {
    int mine = 0;
#pragma unroll 1
    for (int i = own.first; i < own.end; ++i) mine += counts(i) && order_key(__ldcg(logits + i)) == key;
    b.shared.wide[threadIdx.x] = mine;
    math_sync();
    int before = 0;
#pragma unroll 1
    for (int t = 0; t < static_cast<int>(threadIdx.x); ++t) before += static_cast<int>(b.shared.wide[t]);
    math_sync();
    return before;
  };
  {
    int seen = limited ? ties_before(key_k, [](int) { return true; }) : 0;
    double mass = 0.0;
#pragma unroll 1
    for (int i = own.first; i < own.end; ++i) {
      const float x = __ldcg(logits + i);
      const uint32_t key = order_key(x);
      const bool kept = !limited || key > key_k || (key == key_k && seen++ < ties_k);
      p[i] = kept ? exp((static_cast<double>(x) - highest) / temperature) : 0.0;
      mass += p[i];
    }
    mass = ordered_sum(b, mass);
#pragma unroll 1
    for (int i = own.first; i < own.end; ++i) p[i] /= mass;
  }
  if (top_p >= 1.0) return;
  uint32_t key_p = 0;  // the largest key whose tokens and all above reach top_p
#pragma unroll 1
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t candidate = key_p | 1u << bit;
    double mass = 0.0;
#pragma unroll 1
    for (int i = own.first; i < own.end; ++i)
      if (order_key(__ldcg(logits + i)) >= candidate) mass += p[i];
    if (ordered_sum(b, mass) >= top_p) key_p = candidate;
  }
  double above = 0.0, one = 0.0;
#pragma unroll 1
  for (int i = own.first; i < own.end; ++i) {
    const uint32_t key = order_key(__ldcg(logits + i));
    if (key > key_p) above += p[i];
    if (key == key_p) one = fmax(one, p[i]);
  }
  above = ordered_sum(b, above);
  b.shared.wide[threadIdx.x] = one;
  math_sync();
#pragma unroll 1
  for (int t = 0; t < kMathThreads; ++t) one = fmax(one, b.shared.wide[t]);
  math_sync();
  int ties_p = 0;
#pragma unroll 1
  for (double mass = above; mass < top_p && ties_p < vocab; ++ties_p) mass += one;
  int seen = ties_before(key_p, [&](int i) { return p[i] > 0.0; });
  double kept_mass = 0.0;
#pragma unroll 1
  for (int i = own.first; i < own.end; ++i) {
    const uint32_t key = order_key(__ldcg(logits + i));
    const bool kept = key > key_p || (key == key_p && p[i] > 0.0 && seen++ < ties_p);
    if (!kept) p[i] = 0.0;
    kept_mass += p[i];
  }
  kept_mass = ordered_sum(b, kept_mass);
#pragma unroll 1
  for (int i = own.first; i < own.end; ++i) p[i] /= kept_mass;
}

// The smallest id whose cumulative weight exceeds u x total; the last id with weight if rounding exhausts them.
template <class Weight>
__device__ inline int inverse_cdf(Place b, int vocab, double u, Weight weight) {
  const Ids own = own_ids(vocab);
  double mine = 0.0;
  int last = -1;
#pragma unroll 1
  for (int i = own.first; i < own.end; ++i) {
    const double w = weight(i);
    mine += w;
    if (w > 0.0) last = i;
  }
  int* ids = reinterpret_cast<int*>(b.shared.small);
  b.shared.wide[threadIdx.x] = mine;
  math_sync();
  double before = 0.0, total = 0.0;
#pragma unroll 1
  for (int t = 0; t < kMathThreads; ++t) {
    if (t == static_cast<int>(threadIdx.x)) before = total;
    total += b.shared.wide[t];
  }
  math_sync();
  const double target = u * total;
  int found = 0x7fffffff;
  double cumulative = before;
#pragma unroll 1
  for (int i = own.first; i < own.end && found == 0x7fffffff; ++i) {
    const double w = weight(i);
    cumulative += w;
    if (w > 0.0 && cumulative > target) found = i;
  }
  ids[threadIdx.x] = found;
  ids[kMathThreads + threadIdx.x] = last;
  math_sync();
  int token = 0x7fffffff, fallback = -1;
#pragma unroll 1
  for (int t = 0; t < kMathThreads; ++t) {
    token = min(token, ids[t]);
    fallback = max(fallback, ids[kMathThreads + t]);
  }
  math_sync();
  return token == 0x7fffffff ? fallback : token;
}

// argmax(log p + Gumbel noise of the position).
__device__ inline int gumbel_pick(Place b, const double* p, int vocab, uint32_t position) {
  double best = -INFINITY;
  int id = 0x7fffffff;
#pragma unroll 1
  for (int i = threadIdx.x; i < vocab; i += kMathThreads) {
    if (!(p[i] > 0.0)) continue;
    const double score = log(p[i]) + gumbel(b.state->seed, position, static_cast<uint32_t>(i));
    if (ranks_before(score, i, best, id)) best = score, id = i;
  }
  return best_of(b, best, id);
}

// --- picks; block i looks at row i

__device__ __noinline__ void pick_draft(const PickArgs& args, Place b) {
  SessionState& s = *b.state;
  const int i = b.index();  // draft i stands at anchor + 1 + i, row i + 1 of the block
  if (i + 1 >= static_cast<int>(s.rows)) return;
  const int row = i + 1;
  const float* logits = args.logits + static_cast<size_t>(row) * args.vocab;
  int token = greedy_token(b, row, args.tiles, args.best_uses);
  refuse_row(b, token);
  if (s.temperature != 0.0 && s.rule != Rule::kMatch) {
    const uint32_t position = s.start + 1 + static_cast<uint32_t>(i);
    double* q = args.draft_row + static_cast<size_t>(i) * args.vocab;
    processed_row(b, logits, args.vocab, token, q);
    math_sync();
    token = s.rule == Rule::kCoupled
                ? gumbel_pick(b, q, args.vocab, position)
                : inverse_cdf(b, args.vocab, uniform(s.seed, position, Stream::kDraftSample, s.round), [&](int t) { return q[t]; });
  }
  if (s.proposals != nullptr) token = __ldg(s.proposals + s.start + row);
  if (threadIdx.x == 0) s.step[row] = token;
  if (i == 0 && threadIdx.x == 0) s.drafted_ns = ptx::nanoseconds();
}

__device__ __noinline__ void pick(const PickArgs& args, Place b) {
  SessionState& s = *b.state;
  const int row = b.index();
  if (row >= static_cast<int>(s.rows) || (s.phase == Phase::kPrefill && row + 1 != static_cast<int>(s.rows))) return;
  const float* logits = args.logits + static_cast<size_t>(row) * args.vocab;
  int token = greedy_token(b, row, args.tiles, args.best_uses);
  refuse_row(b, token);
  if (s.temperature != 0.0) {
    const uint32_t position = s.start + 1 + static_cast<uint32_t>(row) + defect(Defect::kSeedPosition);  // of the token this row decides
    const bool drafted = s.phase == Phase::kDecode && row + 1 < static_cast<int>(s.rows);
    const bool rejects = s.rule == Rule::kReject && s.block_size > 1 && s.phase == Phase::kDecode;
    double* p = args.row + static_cast<size_t>(row) * args.vocab;
    processed_row(b, logits, args.vocab, token, p);
    math_sync();
    const auto of_p = [&](int t) { return p[t]; };
    if (s.rule == Rule::kCoupled) {
      token = gumbel_pick(b, p, args.vocab, position);
    } else if (!rejects) {
      token = inverse_cdf(b, args.vocab, uniform(s.seed, position, Stream::kTargetSample, 0), of_p);
    } else if (!drafted) {
      token = inverse_cdf(b, args.vocab, uniform(s.seed, position, Stream::kResidualSample, s.round), of_p);
    } else {
      const double* q = args.draft_row + static_cast<size_t>(row) * args.vocab;
      const int32_t draft = s.step[row + 1];
      const bool passed = uniform(s.seed, position, Stream::kAcceptCoin, s.round) * (defect(Defect::kCoin) ? 1.0 : __ldcg(q + draft)) < p[draft];
      const double u = uniform(s.seed, position, Stream::kResidualSample, s.round);
      const auto residual = [&](int t) { return fmax(p[t] - __ldcg(q + t), 0.0); };
      const Ids own = own_ids(args.vocab);
      double mass = 0.0;
#pragma unroll 1
      for (int t = own.first; t < own.end; ++t) mass += residual(t);
      const int corrected =
          ordered_sum(b, mass) > 0.0 ? inverse_cdf(b, args.vocab, u, residual) : inverse_cdf(b, args.vocab, u, of_p);
      if (threadIdx.x == 0) s.passed[row] = passed, s.corrected[row] = corrected;
      token = draft;
    }
  }
  if (threadIdx.x == 0) s.target_token[row] = token;
}

// --- a toy: rows from a table, addressed by the last `order` tokens (the first of them the most significant)

__device__ __noinline__ void toy(const ToyArgs& args, Place b) {
  const SessionState& s = *b.state;
  const int row = b.index();
  if (row >= kRows) return;
  if (row >= static_cast<int>(s.rows) || (args.draft && row == 0)) {  // nobody asks, but a use writes all
    if (threadIdx.x == 0) store_best(b, 0, row * args.tiles, 0.0f, 0, args.best_uses);
    return;
  }
  // A draft's rows all follow the anchor; a target's row follows the tokens of the step up to it.
  const int upto = args.draft ? 0 : row;
  size_t context = 0;
#pragma unroll 1
  for (int i = args.order - 1; i >= 0; --i) {
    const int at = static_cast<int>(s.start) + upto - i;
    const int32_t token = at < 0 ? 0 : at >= static_cast<int>(s.start) ? s.step[at - static_cast<int>(s.start)] : __ldcg(s.tokens + at);
    context = context * args.vocab + token;
  }
  const int table_row = args.draft ? row - 1 : 0;
  const float* from = args.table + (context * args.table_rows + table_row) * args.vocab;
  float value = -INFINITY;
  int id = 0x7fffffff;
  bool bad = false;
#pragma unroll 1
  for (int t = threadIdx.x; t < args.vocab; t += kMathThreads) {
    const float x = from[t];
    args.logits[static_cast<size_t>(row) * args.vocab + t] = x;
    bad = bad || !(x < INFINITY);
    if (ranks_before(x, t, value, id)) value = x, id = t;
  }
  id = best_of(b, value, id);
  bad = any_thread(b, bad);
  if (threadIdx.x == 0) store_best(b, 0, row * args.tiles, bad ? NAN : from[id], id, args.best_uses);
}

}  // namespace kilotoken::stack
