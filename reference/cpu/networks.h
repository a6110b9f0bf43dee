// The rules of target and draft that are most often got wrong, one function a rule. This is the one seam at which a build for testing
// tests (KILOTOKEN_DEFECTS) puts known mistakes into the networks; here every function is the definition. What decides over drafted
// tokens has a seam of its own, decisions.h.
#pragma once

#ifdef KILOTOKEN_DEFECTS
#include "defects/networks.h"
#else

#include <cstddef>
#include <cstdint>

namespace kilotoken {

struct LinearWeights;
struct Ops;
struct TargetWeights;

struct Networks {
  static const Ops& ops(const Ops& best) { return best; }

  // Groups [Q | K | V] of a fused projection, as it is taken apart; `fused` is as it was read.
  static size_t split_groups(size_t stored, LinearWeights& fused) { return static_cast<void>(fused), stored; }
  // Called with all weights of a target.
  static void weights(TargetWeights&) {}

  // What a chosen expert is weighted by: its score, without the bias that helped to choose it.
  static float expert_score(float score, float biased) { return static_cast<void>(biased), score; }

  // Does the mask's own embedding stand for this id?
  static bool masked(int32_t id, int32_t mask_token_id) { return id == mask_token_id; }
  // One past the last place that the draft's row at `position` sees of a block which ends at `end`.
  static size_t block_end(size_t position, size_t end) { return static_cast<void>(position), end; }
};

}  // namespace kilotoken

#endif
