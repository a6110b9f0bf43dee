// y = x W^T with weights held as BF16 codes (scaled per block of 128 along k, or unscaled) or as binary32.
//   y[m][n] = sum over blocks b of scale[n][b] * fold( sum over k in b of w[n][k] x[m][k] )
// The sum of one output runs over 16 lanes in ascending k, each step fused; a block's lanes are folded into the running lanes
// with its scale, and the 16 running lanes are summed once, by halving. Neither the tiling nor the number of rows enters, so a
// row has the same bits whatever it is computed with. A tile loads and widens a weight once and uses it for all its rows.
// Attention scores are the same product, with cached keys in the place of weights.
#pragma once

#include "ops.h"
#include "packed_rows.h"
#include "simd.h"

namespace kilotoken::KT_OPS {

KT_INLINE Vec load_weight(const uint16_t* p) { return load_bf16(p); }
KT_INLINE Vec load_weight(const float* p) { return load(p); }

// Weight rows that one pass over the inputs serves; the next group is fetched into the cache meanwhile.
inline constexpr size_t kGroup = 8;

// acc[n][m] = sum over k in [begin, end) of w[n][k] x[m][k], by lanes. w: the first of N rows, w_stride apart; x: the first of M
// rows in a packed tile of T. begin and end are multiples of 16.
template <int N, int M, int T, class W>
KT_INLINE void accumulate(const W* w, size_t w_stride, const float* x, size_t begin, size_t end, Vec (&acc)[N][M]) {
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) acc[n][m] = set1(0.0f);
  x += begin * T;
  for (size_t k = begin; k < end; k += kLanes, x += kLanes * T) {
    Vec weight[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      weight[n] = load_weight(w + n * w_stride + k);
      prefetch(w + (n + kGroup) * w_stride + k);
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const Vec input = N > 1 ? load_once(x + m * kLanes) : load(x + m * kLanes);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) acc[n][m] = fma(weight[n], input, acc[n][m]);
    }
  }
}

// N weight rows from row0 on, M rows of a packed tile of T. Running lanes wait in memory between blocks: registers hold one block's.
template <int N, int M, int T, class W>
void linear_tile(const W* weights, const LinearShape& s, size_t row0, const float* x, float* y, size_t y_stride) {
  const W* w = weights + row0 * s.stride;
  Vec total[M * N];  // in the order of y
  Vec acc[N][M];
  if (s.scales == nullptr) {
    accumulate<N, M, T>(w, s.stride, x, 0, s.stride, acc);
#pragma GCC unroll 16
    for (int i = 0; i < M * N; ++i) total[i] = acc[i % N][i / N];
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < M * N; ++i) total[i] = set1(0.0f);
    for (size_t begin = 0, block = 0; begin < s.stride; begin += kScaleBlock, ++block) {
      const size_t end = begin + kScaleBlock < s.stride ? begin + kScaleBlock : s.stride;
      accumulate<N, M, T>(w, s.stride, x, begin, end, acc);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        const Vec scale = set1(s.scales[s.scale_row[row0 + n] * s.scale_cols + block]);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) total[m * N + n] = fma(scale, acc[n][m], total[m * N + n]);
      }
    }
  }
  float sums[M * N];
  constexpr int kFours = M * N / 4 * 4;
#pragma GCC unroll 8
  for (int i = 0; i < kFours; i += 4) sum_four(total + i, sums + i);
  for (int i = kFours; i < M * N; ++i) sums[i] = sum(total[i]);
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) __builtin_memcpy(y + m * y_stride + row0, sums + m * N, N * sizeof(float));
}

// Weight rows a tile of M inputs takes at once: as many as keep the running sums in registers, a power of two.
constexpr int weight_rows(int m) {
  int n = 8;
  while (n > 1 && n * m > kAccumulators) n /= 2;
  return n;
}

// `count` weight rows from row0 on, M rows of a packed tile of T.
template <int M, int T, class W>
KT_INLINE void linear_rows(const W* weights, const LinearShape& s, size_t row0, size_t count, const float* x, float* y,
                           size_t y_stride) {
  constexpr int kRows = weight_rows(M);
  size_t n = 0;
  for (; n + kRows <= count; n += kRows) linear_tile<kRows, M, T>(weights, s, row0 + n, x, y, y_stride);
  for (; n < count; ++n) linear_tile<1, M, T>(weights, s, row0 + n, x, y, y_stride);
}

// A whole packed tile of T rows, at most kTileRows of them at a time.
template <int T, class W>
void linear_packed_tile(const W* weights, const LinearShape& s, size_t row0, size_t count, const float* x, float* y,
                        size_t y_stride) {
  constexpr int kFirst = T < kTileRows ? T : kTileRows;
  linear_rows<kFirst, T>(weights, s, row0, count, x, y, y_stride);
  if constexpr (T > kFirst) linear_rows<T - kFirst, T>(weights, s, row0, count, x + kFirst * kLanes, y + kFirst * y_stride, y_stride);
}

// Weight rows in the outer loop: a group of them is read from memory once and stays in L1 for all input rows.
template <class W>
void linear(const W* weights, const LinearShape& s, const float* packed, size_t rows, float* y, size_t y_stride) {
  for (size_t n = 0; n < s.rows; n += kGroup) {
    const size_t count = n + kGroup < s.rows ? kGroup : s.rows - n;
    for (size_t m = 0; m < rows; m += kPackedTile) {
      const float* x = packed + m * s.stride;
      float* to = y + m * y_stride;
      switch (tile_rows(rows - m)) {
        case 1: linear_packed_tile<1>(weights, s, n, count, x, to, y_stride); break;
        case 2: linear_packed_tile<2>(weights, s, n, count, x, to, y_stride); break;
        case 3: linear_packed_tile<3>(weights, s, n, count, x, to, y_stride); break;
        case 4: linear_packed_tile<4>(weights, s, n, count, x, to, y_stride); break;
        case 5: linear_packed_tile<5>(weights, s, n, count, x, to, y_stride); break;
        case 6: linear_packed_tile<6>(weights, s, n, count, x, to, y_stride); break;
        case 7: linear_packed_tile<7>(weights, s, n, count, x, to, y_stride); break;
        default: linear_packed_tile<8>(weights, s, n, count, x, to, y_stride);
      }
    }
  }
}

void linear_bf16(const uint16_t* w, const LinearShape& s, const float* packed, size_t rows, float* y, size_t y_stride) {
  linear(w, s, packed, rows, y, y_stride);
}
void linear_f32(const float* w, const LinearShape& s, const float* packed, size_t rows, float* y, size_t y_stride) {
  linear(w, s, packed, rows, y, y_stride);
}

}  // namespace kilotoken::KT_OPS
