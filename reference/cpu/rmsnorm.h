// y = x / sqrt(mean(x^2) + epsilon) * weight, in binary32. Source: Zhang and Sennrich, "Root Mean Square Layer
// Normalization", 2019, equation 4.
#pragma once

#include <cmath>

#include "ops.h"
#include "simd.h"

namespace kilotoken::KT_OPS {

// x, weight, y: [cols]; x and y may be the same.
void rmsnorm(const float* x, const float* weight, size_t cols, float epsilon, float* y) {
  Vec squares = set1(0.0f);
  for_each_vec(cols, [&](size_t i, size_t n) {
    const Vec v = load_some(x + i, n);
    squares = fma(v, v, squares);
  });
  const Vec inverse = set1(1.0f / std::sqrt(sum(squares) / static_cast<float>(cols) + epsilon));
  for_each_vec(cols, [&](size_t i, size_t n) {
    store_some(y + i, mul(mul(load_some(x + i, n), inverse), load_some(weight + i, n)), n);
  });
}

}  // namespace kilotoken::KT_OPS
