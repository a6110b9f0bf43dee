// What the decisions of a block are told about it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sampling.h"

namespace kilotoken {

// A place of a block: index 0 .. drafts - 1 for the drafts, `drafts` for the bonus token.
struct Place {
  size_t index = 0, drafts = 0;
  bool bonus() const { return index == drafts; }
};

struct BlockRows {
  const float* target = nullptr;  // [drafts + 1][vocab], logits
  const float* draft = nullptr;   // [drafts][vocab], logits
  size_t vocab = 0;
};

struct Refusal {
  int32_t token;                     // the draft that was refused
  Place place;
  const std::vector<double>& p;      // the target's law of the place
  const std::vector<double>& q;      // the draft's
  const std::vector<std::vector<double>>& draft_rows;
  const BlockRows& rows;
  Filters filters;
};

struct RoundCount {
  uint64_t before = 0;     // rounds of the session before this one
  uint64_t committed = 0;  // tokens of this one, before any cut
};

}  // namespace kilotoken
