// Softmax attention of the query heads that share one key/value head, over the cached keys [first, end) of each query row:
//   l_j = scale * q . k_j;  w_j = exp(l_j - m);  out = sum_j w_j v_j / (exp(sink - m) + sum_j w_j),  m = max(sink, max_j l_j).
// The sink is a learned logit that takes mass and has no value. A global layer, a sliding window and the draft's bidirectional
// block differ only in [first, end). Source: MiMo-V2-Flash technical report, equations 2 and 3.
// A row's sums start at its own `first` and run in ascending j; keys that other rows of the step see but this one does not
// enter with weight exactly 0, which adds nothing. So the bits do not depend on what else the step holds.
#pragma once

#include "exponential.h"
#include "linear.h"
#include "ops.h"
#include "simd.h"

namespace kilotoken::KT_OPS {

// logits: those of one query over its visible keys (one or more), overwritten with weights; returns the denominator.
inline float softmax_with_sink(float* logits, size_t count, float scale, const float* sink) {
  const float lowest = -__builtin_huge_valf();
  const Vec s = set1(scale);
  Vec tops = set1(sink ? *sink : lowest);
  for_each_vec(count, [&](size_t i, size_t n) {
    store_some(logits + i, mul(load_some(logits + i, n), s), n);
    if (n == kLanes) tops = max(load(logits + i), tops);
  });
  float lanes[kLanes];
  store(lanes, tops);
  float top = lanes[0];
  for (const float lane : lanes) top = lane > top ? lane : top;
  for (size_t i = count / kLanes * kLanes; i < count; ++i) top = logits[i] > top ? logits[i] : top;

  const Vec m = set1(top);
  Vec mass = set1(0.0f);
  for_each_vec(count, [&](size_t i, size_t n) {
    store_some(logits + i, exponential(sub(load_some(logits + i, n), m)), n);
    mass = add(mass, load_some(logits + i, n));  // loaded again, so that lanes past the end add 0
  });
  store(lanes, exponential(set1(sink ? *sink - top : lowest)));
  return sum(mass) + lanes[0];
}

// out[q][d] = sum_j weights[q][j] values[j][d] / denominator[q] for Q queries and D vectors of columns from d0 on.
template <int Q, int D, class V>
KT_INLINE void weighted_values(const float* weights, size_t weights_stride, const V* values, size_t value_stride,
                               size_t keys, const float* denominator, float* const* out, size_t d0, size_t value_dim) {
  Vec acc[Q][D];
#pragma GCC unroll 16
  for (int q = 0; q < Q; ++q)
#pragma GCC unroll 16
    for (int d = 0; d < D; ++d) acc[q][d] = set1(0.0f);
  for (size_t j = 0; j < keys; ++j) {
    Vec value[D];
#pragma GCC unroll 16
    for (int d = 0; d < D; ++d) value[d] = load_weight(values + j * value_stride + d0 + d * kLanes);
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) {
      const Vec weight = set1(weights[q * weights_stride + j]);
#pragma GCC unroll 16
      for (int d = 0; d < D; ++d) acc[q][d] = fma(weight, value[d], acc[q][d]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int d = 0; d < D; ++d) {
      const size_t begin = d0 + d * kLanes;
      const size_t n = begin + kLanes <= value_dim ? size_t{kLanes} : value_dim - begin;
      store_some(out[q] + begin, div(acc[q][d], set1(denominator[q])), n);
    }
}

template <int Q, class V>
void weighted_values_rows(const float* weights, size_t weights_stride, const AttentionHead& a, const V* values,
                          size_t keys, const float* denominator, float* const* out) {
  constexpr int kWide = kAccumulators / Q < 1 ? 1 : kAccumulators / Q;
  size_t d = 0;
  for (; d + kWide * kLanes <= a.value_dim; d += kWide * kLanes)
    weighted_values<Q, kWide>(weights, weights_stride, values, a.value_stride, keys, denominator, out, d, a.value_dim);
  for (; d < a.value_dim; d += kLanes)
    weighted_values<Q, 1>(weights, weights_stride, values, a.value_stride, keys, denominator, out, d, a.value_dim);
}

// Rows are taken kAttentionRows at a time, which bounds the scratch. V: BF16 codes or binary32.
template <class V>
void attention(const AttentionHead& a) {
  constexpr size_t kRows = kAttentionRows;
  for (size_t row0 = 0; row0 < a.rows; row0 += kRows) {
    const size_t rows = row0 + kRows < a.rows ? kRows : a.rows - row0;
    const size_t queries = rows * a.heads;
    size_t first = a.first[row0], end = a.end[row0];
    for (size_t r = row0; r < row0 + rows; ++r) {
      first = a.first[r] < first ? a.first[r] : first;
      end = a.end[r] > end ? a.end[r] : end;
    }
    const size_t keys = end - first;

    const auto query = [&](size_t q) {
      return a.queries + (row0 + q / a.heads) * a.query_row_stride + q % a.heads * a.head_dim;
    };
    pack_rows(queries, a.head_dim, query, a.packed_queries);
    LinearShape shape{};
    shape.rows = keys;
    shape.cols = shape.stride = a.key_stride;
    linear(static_cast<const V*>(a.keys) + first * a.key_stride, shape, a.packed_queries, queries, a.logits, keys);

    for (size_t q = 0; q < queries; ++q) {
      const size_t r = row0 + q / a.heads;
      float* logits = a.logits + q * keys;
      const size_t begin = a.first[r] - first, stop = a.end[r] - first;
      for (size_t j = 0; j < begin; ++j) logits[j] = 0.0f;
      a.denominators[q] =
          softmax_with_sink(logits + begin, stop - begin, a.scale, a.sinks ? a.sinks + q % a.heads : nullptr);
      for (size_t j = stop; j < keys; ++j) logits[j] = 0.0f;
    }

    const auto out_of = [&](size_t q) {
      return a.out + (row0 + q / a.heads) * a.out_row_stride + (q % a.heads) * a.value_dim;
    };
    const V* values = static_cast<const V*>(a.values) + first * a.value_stride;
    size_t q = 0;
    const auto some = [&]<int Q>() {
      float* out[Q];
      for (int i = 0; i < Q; ++i) out[i] = out_of(q + i);
      weighted_values_rows<Q>(a.logits + q * keys, keys, a, values, keys, a.denominators + q, out);
      q += Q;
    };
    while (q + kTileRows <= queries) some.template operator()<kTileRows>();
    if (q + 4 <= queries) some.template operator()<4>();
    if (q + 2 <= queries) some.template operator()<2>();
    if (q < queries) some.template operator()<1>();
  }
}

void attention_bf16(const AttentionHead& a) { attention<uint16_t>(a); }
void attention_f32(const AttentionHead& a) { attention<float>(a); }

}  // namespace kilotoken::KT_OPS
