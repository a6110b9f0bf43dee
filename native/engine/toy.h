// Toys as they arrive from outside: tables of logits and the sizes they are said to have.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model.h"

namespace kilotoken {

struct ToySpec {
  size_t vocab = 0, order = 0, max_context = 0;
  size_t block = 1;                  // 1: no draft
  std::vector<float> target_logits;  // [vocab^order][vocab]
  std::vector<float> draft_logits;   // [vocab^order][block - 1][vocab]
  bool allow_nan = false;            // a model that breaks while it runs, for tests of what the engine does then
};

// -infinity is a token of probability 0. Throws InputFault on tables that do not have the sizes named, on NaN and +infinity (unless
// `allow_nan`), and on a row without a token.
std::shared_ptr<const Model> load_toy(ToySpec spec);

}  // namespace kilotoken
