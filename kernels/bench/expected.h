// Rows of the benches' products in double on the host, from the functions that made the weights (weights.h) and inputs. With each result the sum of its terms'
// magnitudes, by which differences are judged.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/stack.h"

namespace kilotoken::bench {

struct Sum {
  double value = 0, magnitude = 0;
  void add(double term) { value += term, magnitude += term < 0 ? -term : term; }
};

// Inputs of a step as the host knows them: [live rows][k].
struct HostInputs {
  int k = 0;
  std::vector<std::vector<double>> rows;
};

// Row `row` of an E4M3, BF16 or binary32 matrix of `k` columns times each input row.
enum class Stored { kE4m3, kBf16, kF32 };
std::vector<Sum> linear_row(stack::Tensor tensor, int layer, Stored stored, int row, const HostInputs& x);

// silu(gate) * up of one expert's `index`-th inner channel, for each input row; `magnitude`: how much it changes, at most, by one unit of relative difference
// (of |terms|) in both sums.
std::vector<Sum> expert_inner(int layer, int expert, int index, const HostInputs& x);

// One weight of an expert's down projection.
double expert_down(int layer, int expert, int row, int k);

}  // namespace kilotoken::bench
