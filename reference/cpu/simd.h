// Sixteen floats at once: the lane order of core/lanes.h as a type. Three spellings of the same operations (one AVX-512
// register, two AVX2 registers, a plain array) that give the same bits: every operation is one correctly rounded IEEE
// operation per lane, fused only where `fma` says so, and `sum` folds lanes in core's halving order.
// This header is compiled once per instruction set (see ops.h), hence the namespace macro.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "core/bits.h"
#include "core/lanes.h"

#define KT_INLINE inline __attribute__((always_inline))

namespace kilotoken::KT_OPS {

#if defined(__AVX512F__)

// Registers the tile loops may use for running sums, in units of Vec; the rest holds weights and inputs.
inline constexpr int kAccumulators = 16;
inline constexpr int kTileRows = 8;

struct Vec {
  __m512 v;
};
KT_INLINE Vec set1(float x) { return {_mm512_set1_ps(x)}; }
KT_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
KT_INLINE Vec load_part(const float* p, size_t n) { return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p)}; }
KT_INLINE void store_part(float* p, Vec a, size_t n) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), a.v); }
KT_INLINE Vec load_once(const float* p) {
  Vec a = load(p);
  __asm__("" : "+v"(a.v));
  return a;
}
KT_INLINE void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
KT_INLINE Vec load_bf16(const uint16_t* p) {
  const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(codes), 16))};
}
KT_INLINE Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
KT_INLINE Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
KT_INLINE Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
KT_INLINE Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
KT_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
KT_INLINE Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
KT_INLINE Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
KT_INLINE Vec bits_and(Vec a, uint32_t mask) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(static_cast<int>(mask))))};
}
KT_INLINE Vec bits_or(Vec a, Vec b) {
  return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)))};
}
// The sums of four vectors, each folded by halving.
KT_INLINE __m128 sums(Vec a, Vec b, Vec c, Vec d) {
  const auto fold = [](__m512 x, __m512 y) {  // quarters [x0 x1 x2 x3], [y...] -> [x0+x2 x1+x3 y0+y2 y1+y3]
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
  };
  const __m512 ab = fold(a.v, b.v), cd = fold(c.v, d.v);
  const __m512 four = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  const __m512 two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
  const __m512 one = _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1));
  return _mm512_castps512_ps128(_mm512_permutexvar_ps(_mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0), one));
}
KT_INLINE Vec pow2_of_low_bits(Vec a) {
  const __m512i biased = _mm512_add_epi32(_mm512_castps_si512(a.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}

#elif defined(__AVX2__)

inline constexpr int kAccumulators = 4;
inline constexpr int kTileRows = 4;

struct Vec {
  __m256 lo, hi;
};
KT_INLINE Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
KT_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
KT_INLINE __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}
KT_INLINE Vec load_part(const float* p, size_t n) {
  const int count = static_cast<int>(n);
  return {_mm256_maskload_ps(p, first_lanes(count)), _mm256_maskload_ps(p + 8, first_lanes(count - 8))};
}
KT_INLINE Vec load_once(const float* p) {
  Vec a = load(p);
  __asm__("" : "+x"(a.lo), "+x"(a.hi));
  return a;
}
KT_INLINE void store(float* p, Vec a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
KT_INLINE void store_part(float* p, Vec a, size_t n) {
  const int count = static_cast<int>(n);
  _mm256_maskstore_ps(p, first_lanes(count), a.lo);
  _mm256_maskstore_ps(p + 8, first_lanes(count - 8), a.hi);
}
KT_INLINE __m256 widen_bf16(const uint16_t* p) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16));
}
KT_INLINE Vec load_bf16(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
KT_INLINE Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
KT_INLINE Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
KT_INLINE Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
KT_INLINE Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
KT_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
KT_INLINE Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
KT_INLINE Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
KT_INLINE Vec bits_and(Vec a, uint32_t mask) {
  const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(mask)));
  return {_mm256_and_ps(a.lo, m), _mm256_and_ps(a.hi, m)};
}
KT_INLINE Vec bits_or(Vec a, Vec b) { return {_mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi)}; }
KT_INLINE __m128 sums(Vec a, Vec b, Vec c, Vec d) {
  const auto fold = [](Vec x, Vec y) {  // -> [four lanes of x | four lanes of y]
    const __m256 eight_x = _mm256_add_ps(x.lo, x.hi), eight_y = _mm256_add_ps(y.lo, y.hi);
    return _mm256_add_ps(_mm256_permute2f128_ps(eight_x, eight_y, 0x20), _mm256_permute2f128_ps(eight_x, eight_y, 0x31));
  };
  const __m256 ab = fold(a, b), cd = fold(c, d);
  const __m256 two = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  const __m256 one = _mm256_add_ps(two, _mm256_permute_ps(two, 0xb1));  // [a a c c | b b d d]
  return _mm_unpacklo_ps(_mm_permute_ps(_mm256_castps256_ps128(one), 0x08), _mm_permute_ps(_mm256_extractf128_ps(one, 1), 0x08));
}
KT_INLINE __m256 pow2_of_low_bits(__m256 a) {
  const __m256i biased = _mm256_add_epi32(_mm256_castps_si256(a), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
KT_INLINE Vec pow2_of_low_bits(Vec a) { return {pow2_of_low_bits(a.lo), pow2_of_low_bits(a.hi)}; }

#else

inline constexpr int kAccumulators = 8;
inline constexpr int kTileRows = 4;

struct Vec {
  float v[kLanes];
};
template <class F>
KT_INLINE Vec each(F f) {
  Vec r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
  return r;
}
KT_INLINE Vec set1(float x) {
  return each([&](int) { return x; });
}
KT_INLINE Vec load(const float* p) {
  return each([&](int i) { return p[i]; });
}
KT_INLINE Vec load_part(const float* p, size_t n) {
  return each([&](int i) { return static_cast<size_t>(i) < n ? p[i] : 0.0f; });
}
KT_INLINE Vec load_once(const float* p) { return load(p); }
KT_INLINE void store(float* p, Vec a) {
  for (int i = 0; i < kLanes; ++i) p[i] = a.v[i];
}
KT_INLINE void store_part(float* p, Vec a, size_t n) {
  for (size_t i = 0; i < n; ++i) p[i] = a.v[i];
}
KT_INLINE Vec load_bf16(const uint16_t* p) {
  return each([&](int i) { return bits_float(static_cast<uint32_t>(p[i]) << 16); });
}
KT_INLINE Vec add(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
KT_INLINE Vec sub(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
KT_INLINE Vec mul(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
KT_INLINE Vec div(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
KT_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return each([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
KT_INLINE Vec max(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
KT_INLINE Vec min(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
KT_INLINE Vec bits_and(Vec a, uint32_t mask) {
  return each([&](int i) { return bits_float(float_bits(a.v[i]) & mask); });
}
KT_INLINE Vec bits_or(Vec a, Vec b) {
  return each([&](int i) { return bits_float(float_bits(a.v[i]) | float_bits(b.v[i])); });
}
KT_INLINE Vec pow2_of_low_bits(Vec a) {
  return each([&](int i) { return bits_float((float_bits(a.v[i]) + 127u) << 23); });
}

#endif

// Of the operations above: max and min return b when a lane of either is NaN, so `max(bound, x)` keeps a NaN of x; load_part
// reads the first n < 16 floats and puts zeros behind them; load_once is `load` for a value used several times, kept in a
// register where the compiler would repeat the load in every use.

// out[i] = the sum of v[i], its lanes folded by halving as core's sum_lanes does.
KT_INLINE void sum_four(const Vec* v, float* out) {
#if defined(__AVX2__)
  _mm_storeu_ps(out, sums(v[0], v[1], v[2], v[3]));
#else
  for (int i = 0; i < 4; ++i) {
    Vec lanes = v[i];
    out[i] = sum_lanes(lanes.v);
  }
#endif
}

KT_INLINE float sum(Vec a) {
  float lanes[kLanes];
  store(lanes, a);
  return sum_lanes(lanes);
}

KT_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

// Calls body(i, n) for i = 0, 16, 32, ... below `count`; n = 16, or fewer in the last call.
template <class F>
KT_INLINE void for_each_vec(size_t count, F body) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, size_t{kLanes});
  if (i < count) body(i, count - i);
}
KT_INLINE Vec load_some(const float* p, size_t n) { return n == kLanes ? load(p) : load_part(p, n); }
KT_INLINE void store_some(float* p, Vec a, size_t n) {
  if (n == kLanes) store(p, a);
  else store_part(p, a, n);
}

}  // namespace kilotoken::KT_OPS
