// Philox4x32-10: a counter-based random number generator. Four 32-bit words are a pure function of a 128-bit counter and a
// 64-bit key, so any draw of any position can be recomputed alone, on any device, in any order.
// Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC11, section 3.2 and table 2.
#pragma once

#include <cstdint>

#include "hd.h"

namespace kilotoken {

struct PhiloxWords {
  uint32_t x[4];
};

inline constexpr int kPhiloxRounds = 10;

KT_HD constexpr PhiloxWords philox4x32(PhiloxWords counter, uint32_t key0, uint32_t key1) {
  uint32_t c0 = counter.x[0], c1 = counter.x[1], c2 = counter.x[2], c3 = counter.x[3];
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    key0 += 0x9E3779B9u;  // Weyl increments: golden ratio, sqrt(3) - 1
    key1 += 0xBB67AE85u;
  }
  return PhiloxWords{{c0, c1, c2, c3}};
}

}  // namespace kilotoken
