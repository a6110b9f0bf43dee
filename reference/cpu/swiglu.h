// SwiGLU without a clamp: y = silu(gate) * up, silu(v) = v / (1 + e^-v). Source: Shazeer, "GLU Variants Improve Transformer",
// 2020, equation 6.
#pragma once

#include "exponential.h"
#include "ops.h"
#include "simd.h"

namespace kilotoken::KT_OPS {

// gate, up, y: [cols]; y may be either.
void swiglu(const float* gate, const float* up, size_t cols, float* y) {
  const Vec one = set1(1.0f), zero = set1(0.0f);
  for_each_vec(cols, [&](size_t i, size_t n) {
    const Vec g = load_some(gate + i, n);
    const Vec silu = div(g, add(one, exponential(sub(zero, g))));
    store_some(y + i, mul(silu, load_some(up + i, n)), n);
  });
}

// y = 1 / (1 + e^-x): the router's score of an expert.
void sigmoid(const float* x, size_t cols, float* y) {
  const Vec one = set1(1.0f), zero = set1(0.0f);
  for_each_vec(cols, [&](size_t i, size_t n) {
    store_some(y + i, div(one, add(one, exponential(sub(zero, load_some(x + i, n))))), n);
  });
}

}  // namespace kilotoken::KT_OPS
