// One fixed order for every long sum, so that a result does not depend on how many rows are computed together, on the vector
// width of the machine, or on the compiler: element i is added to lane i % 16 in ascending i, and the 16 lanes are then
// summed by halving (lane j += lane j + 8, then + 4, + 2, + 1).
// NOTE: holds only without floating-point contraction (-ffp-contract=off) or with an explicit fma everywhere.
#pragma once

#include "hd.h"

namespace kilotoken {

inline constexpr int kLanes = 16;

// lanes: 16 partial sums, overwritten.
template <class T>
KT_HD constexpr T sum_lanes(T* lanes) {
  for (int stride = kLanes / 2; stride > 0; stride /= 2) {
    for (int j = 0; j < stride; ++j) lanes[j] += lanes[j + stride];
  }
  return lanes[0];
}

}  // namespace kilotoken
