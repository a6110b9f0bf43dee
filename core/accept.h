// The decisions of the three verification rules, one token at a time, over rows and uniforms that someone else has computed.
//   match    t = inverse_cdf(p, u);                      keep a draft d while d == t
//   coupled  t = coupled_pick(log p), d = coupled_pick(log q) with the same noise; keep while equal
//   reject   keep d while accepts(u, q[d], p[d]); then draw from residual_row(p, q)
// Rows are probabilities in binary64, already filtered and normalised; filtered tokens hold exactly 0 (log: -infinity).
// Source: Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding", 2023, section 2.3 (reject).
#pragma once

#include <cstdint>

#include "hd.h"
#include "random.h"
#include "ties.h"

namespace kilotoken {

// The smallest id whose cumulative probability exceeds u; if rounding exhausts the row, the last id with probability > 0.
KT_HD constexpr int inverse_cdf(const double* p, int n, double u) {
  double cumulative = 0.0;
  int last_kept = 0;
  for (int i = 0; i < n; ++i) {
    if (p[i] > 0.0) last_kept = i;
    cumulative += p[i];
    if (cumulative > u) return i;
  }
  return last_kept;
}

// The accept coin of `reject`: true with probability min(1, p / q). Written without the division, so q = 0 needs no case.
KT_HD constexpr bool accepts(double u, double q, double p) { return u * q < p; }

// out[i] = max(p[i] - q[i], 0) / mass; returns the mass. With no mass (p == q up to rounding) out is p. out may alias neither.
KT_HD constexpr double residual_row(const double* p, const double* q, int n, double* out) {
  double mass = 0.0;
  for (int i = 0; i < n; ++i) {
    out[i] = p[i] > q[i] ? p[i] - q[i] : 0.0;
    mass += out[i];
  }
  for (int i = 0; i < n; ++i) out[i] = mass > 0.0 ? out[i] / mass : p[i];
  return mass;
}

// argmax over tokens of log_p + Gumbel noise of (position, token), ties to the lowest id. Tokens at -infinity are skipped
// without drawing; at least one token must be finite.
KT_HD inline int coupled_pick(const double* log_p, int n, uint64_t seed, uint32_t position) {
  int best = -1;
  double best_value = 0.0;
  for (int i = 0; i < n; ++i) {
    if (!(log_p[i] > -__builtin_huge_val())) continue;
    const double value = log_p[i] + gumbel(seed, position, static_cast<uint32_t>(i));
    if (best < 0 || ranks_before(value, i, best_value, best)) {
      best = i;
      best_value = value;
    }
  }
  return best < 0 ? 0 : best;
}

}  // namespace kilotoken
