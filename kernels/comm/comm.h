// What the GPUs of one model know of each other: where each of them receives. Plain peer loads and stores over NVLink; no multicast.
#pragma once

#include <cstdint>

namespace kilotoken::stack {

inline constexpr int kMaxRanks = 8;
inline constexpr int kGroupFloats = 8 * 128;  // eight rows of the 128 columns that a block reduces

// By rank; entries of other ranks are peer pointers. Everything in them carries its own readiness (persistent/instruction.h, Parts).
struct Comm {
  int rank = 0, ranks = 1;
  bool one_hop = false;             // how sums are made (all_reduce.cuh)
  float* inbox[kMaxRanks] = {};     // [2][group][rank][8][128]: what each rank adds; the second half is used by one_hop alone
  float* outbox[kMaxRanks] = {};    // [group][8][128]: sums
  uint64_t* best[kMaxRanks] = {};   // [8][tiles of the whole head]: largest logit (binary32, low word) and its id
};

}  // namespace kilotoken::stack
