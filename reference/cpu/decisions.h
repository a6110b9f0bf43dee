// What the decode loop decides, one function a decision; decode.cpp owns the order of things and the bookkeeping. This is the one
// seam at which a build for testing tests (KILOTOKEN_DEFECTS) puts known mistakes; here every function is the definition.
#pragma once

#ifdef KILOTOKEN_DEFECTS
#include "defects/decisions.h"
#else

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/accept.h"
#include "core/random.h"
#include "model.h"
#include "places.h"
#include "sampling.h"

namespace kilotoken {

struct Decisions {
  // Inverse CDF of a processed row, for drafts and for everything else.
  static int32_t draft_token(const std::vector<double>& q, double u) { return token(q, u); }
  static int32_t token(const std::vector<double>& p, double u) { return inverse_cdf(p.data(), static_cast<int>(p.size()), u); }

  // The row of logits that belongs to a place, and the filters it goes through.
  static const float* target_logits(const BlockRows& rows, Place place, std::span<const int32_t>) {
    return rows.target + place.index * rows.vocab;
  }
  static Filters target_filters(Filters asked, Place) { return asked; }

  // The law a draft was drawn from, as ratio and residual read it. rows: [drafts]
  static const std::vector<double>& draft_row(const std::vector<std::vector<double>>& rows, const BlockRows&, Place place) {
    return rows[place.index];
  }

  // Is this draft held against the target?
  static bool examines(Place) { return true; }
  static bool accepts(double u, double q, double p) { return kilotoken::accepts(u, q, p); }

  // The law of the correction after `refused`.
  static void residual(const Refusal& refusal, std::vector<double>& out) {
    out.resize(refusal.p.size());
    residual_row(refusal.p.data(), refusal.q.data(), static_cast<int>(out.size()), out.data());
  }
  static bool emits_correction(Place) { return true; }

  // Which numbers decide: the position of a counter (`first`: the block's), and the streams.
  static uint32_t number_position(uint32_t position, uint32_t first) { return static_cast<void>(first), position; }
  static Stream coin_stream() { return Stream::kAcceptCoin; }
  static Stream correction_stream() { return Stream::kResidualSample; }

  // Taps of a block of `rows` into the draft's context: those of the first `verified`, which hold. The anchor that follows has none yet.
  static void extend(const DraftModel& draft, SequenceState& context, std::span<const float> taps, size_t rows, size_t verified) {
    draft.extend(context, taps.first(taps.size() / rows * verified), verified);
  }

  // Places the target's cache keeps of a block whose first `kept` rows hold, of `rows` in all.
  static size_t cached(size_t kept, size_t rows) { return static_cast<void>(rows), kept; }

  // Tokens that may still be emitted, and whether what follows a stop id is cut.
  static uint64_t left(uint64_t max_tokens, uint64_t emitted, const RoundCount&) { return max_tokens - emitted; }
  static bool cuts_at_stop() { return true; }

  // Called behind every block.
  static void remember(const std::vector<std::vector<double>>&) {}
};

}  // namespace kilotoken

#endif
