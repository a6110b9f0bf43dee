// One rule for ties everywhere (greedy decoding, top-k of the sampler, top-k of the router): the larger value first, and among
// equal values the lower id. +0 and -0 are equal. NaN ranks below every number, so that a NaN is never chosen while
// a number is there.
#pragma once

#include "hd.h"

namespace kilotoken {

// True if (a, id_a) comes before (b, id_b). A strict weak ordering, fit for std::sort.
template <class T>
KT_HD constexpr bool ranks_before(T a, int id_a, T b, int id_b) {
  const bool a_nan = a != a, b_nan = b != b;
  if (a_nan != b_nan) return b_nan;
  if (!a_nan && a != b) return a > b;
  return id_a < id_b;
}

// The lowest id of the largest value. n >= 1.
template <class T>
KT_HD constexpr int argmax(const T* values, int n) {
  int best = 0;
  for (int i = 1; i < n; ++i) {
    if (ranks_before(values[i], i, values[best], best)) best = i;
  }
  return best;
}

// The ids of the k first in rank order, best first. 0 <= k <= n; ids has room for k. O(n k): for routers and short lists.
template <class T>
KT_HD constexpr void top_k(const T* values, int n, int k, int* ids) {
  int filled = 0;
  for (int i = 0; i < n; ++i) {
    int slot = filled;
    while (slot > 0 && ranks_before(values[i], i, values[ids[slot - 1]], ids[slot - 1])) --slot;
    if (slot >= k) continue;
    if (filled < k) ++filled;
    for (int j = filled - 1; j > slot; --j) ids[j] = ids[j - 1];
    ids[slot] = i;
  }
}

}  // namespace kilotoken
