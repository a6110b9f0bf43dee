// Token id to residual stream: one row of the embedding table, widened to binary32.
#pragma once

#include "core/bf16.h"
#include "linear_weights.h"

namespace kilotoken {

// x: [table.cols]
inline void embed(const LinearWeights& table, int32_t id, float* x) {
  const size_t row = static_cast<size_t>(id) * table.stride;
  for (size_t c = 0; c < table.cols; ++c)
    x[c] = table.codes.empty() ? table.values[row + c] : bf16_to_float(table.codes[row + c]);
}

}  // namespace kilotoken
