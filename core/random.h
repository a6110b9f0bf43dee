// Which random number belongs to which decision. Every draw is addressed by (seed, position, stream, draw, round), so that
// plain and speculative decoding can use the very same numbers for the same token.
//   key = the 64-bit seed (low word, high word); counter = (position, stream, draw, round).
//   position: absolute index of the token being drawn (a prompt of n tokens: the first generated token has position n).
//   draw: 0, except for Gumbel noise, where two tokens share a counter: draw = token / 2.
//   round: 0 for `match` and `coupled`, whose numbers must not depend on how tokens are grouped into rounds; the round's
//   index (0 = prefill) for streams 1, 2 and 3 of `reject`.
// Gumbel-max sampling: argmax(log p + g) with g = -log(-log u) is distributed as p (Gumbel 1954; Maddison et al. 2014).
#pragma once

#include <cmath>
#include <cstdint>

#include "hd.h"
#include "philox.h"

namespace kilotoken {

enum class Stream : uint32_t {
  kTargetSample = 0,
  kDraftSample = 1,
  kAcceptCoin = 2,
  kResidualSample = 3,  // also the bonus token of `reject`
  kGumbel = 4,
};

KT_HD constexpr PhiloxWords random_words(uint64_t seed, uint32_t position, Stream stream, uint32_t draw, uint32_t round) {
  return philox4x32(PhiloxWords{{position, static_cast<uint32_t>(stream), draw, round}}, static_cast<uint32_t>(seed),
                    static_cast<uint32_t>(seed >> 32));
}

// A uniform number strictly inside (0, 1) from 52 random bits: (n + 1/2) 2^-52, exact in binary64.
KT_HD constexpr double uniform52(uint32_t x0, uint32_t x1) {
  const uint64_t n = (static_cast<uint64_t>(x0) << 20) | (x1 >> 12);
  return (static_cast<double>(n) + 0.5) * 0x1p-52;
}

KT_HD constexpr double uniform(uint64_t seed, uint32_t position, Stream stream, uint32_t round) {
  const PhiloxWords w = random_words(seed, position, stream, /*draw=*/0, round);
  return uniform52(w.x[0], w.x[1]);
}

// Standard Gumbel noise of one (position, token); even tokens take words 0 and 1 of their counter, odd tokens words 2 and 3.
KT_HD constexpr double gumbel_uniform(uint64_t seed, uint32_t position, uint32_t token) {
  const PhiloxWords w = random_words(seed, position, Stream::kGumbel, token >> 1, /*round=*/0);
  return (token & 1u) ? uniform52(w.x[2], w.x[3]) : uniform52(w.x[0], w.x[1]);
}

KT_HD inline double gumbel(uint64_t seed, uint32_t position, uint32_t token) {
  return -std::log(-std::log(gumbel_uniform(seed, position, token)));
}

}  // namespace kilotoken
