// The decisions of ../decisions.h with the mistakes of the registry in their places. Without a chosen defect each function is the
// correct one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "../model.h"
#include "../places.h"
#include "../sampling.h"
#include "core/accept.h"
#include "core/random.h"
#include "core/ties.h"
#include "registry.h"

namespace kilotoken {

class Decisions {
 public:
  // False if there is no such id.
  bool choose(const std::string& id) {
    for (const DefectEntry& entry : kDefects)
      if (id == entry.id) defect_ = entry.defect;
    return defect_ != Defect::kNone;
  }

  int32_t draft_token(const std::vector<double>& q, double u) const {
    if (is(Defect::kM16) || is(Defect::kG02)) return argmax(q.data(), static_cast<int>(q.size()));
    return token(q, u);
  }

  int32_t token(const std::vector<double>& p, double u) const {
    const int n = static_cast<int>(p.size());
    if (!is(Defect::kM34) && !is(Defect::kM35)) return inverse_cdf(p.data(), n, u);
    double cumulative = 0.0;
    for (int i = 0; i < n; ++i) {
      cumulative += p[static_cast<size_t>(i)];
      if (is(Defect::kM34) ? cumulative >= u : cumulative > u) return i;
    }
    return n - 1;
  }

  const float* target_logits(const BlockRows& rows, Place place, std::span<const int32_t> drafted) {
    const float* row = rows.target + place.index * rows.vocab;
    if (place.drafts == 0) return row;
    if (is(Defect::kM07) && place.bonus()) return row - rows.vocab;
    if (is(Defect::kM08) && place.bonus()) return rows.draft + (place.drafts - 1) * rows.vocab;
    if (is(Defect::kM23) && !place.bonus()) {
      scratch_.assign(row, row + rows.vocab);
      float& drafts_logit = scratch_[static_cast<size_t>(drafted[place.index])];
      if (std::count_if(scratch_.begin(), scratch_.end(), [](float x) { return std::isfinite(x); }) > 1)
        drafts_logit = -std::numeric_limits<float>::infinity();
      return scratch_.data();
    }
    if (is(Defect::kM26) || (is(Defect::kM09) && place.bonus())) {
      scratch_.assign(rows.vocab, -std::numeric_limits<float>::infinity());
      scratch_[static_cast<size_t>(argmax(row, static_cast<int>(rows.vocab)))] = 0.0f;
      return scratch_.data();
    }
    return row;
  }

  Filters target_filters(Filters asked, Place place) const {
    if (place.drafts == 0) return asked;
    if (is(Defect::kM13)) asked.temperature = 1;
    if (is(Defect::kM14) && !place.bonus()) asked.top_p = 1;
    return asked;
  }

  const std::vector<double>& draft_row(const std::vector<std::vector<double>>& now, const BlockRows& rows, Place place) {
    const size_t i = place.index;
    if (is(Defect::kM18)) return now[(i + 1) % place.drafts];
    if (is(Defect::kM19) && i < before_.size()) return before_[i];
    if (is(Defect::kM15)) {
      processed_row(rows.draft + i * rows.vocab, rows.vocab, Filters{}, row_);
      return row_;
    }
    if (is(Defect::kG02)) {
      row_.assign(rows.vocab, 0.0);
      row_[static_cast<size_t>(argmax(now[i].data(), static_cast<int>(rows.vocab)))] = 1.0;
      return row_;
    }
    if (is(Defect::kM28)) {
      row_ = now[i];
      for (size_t id = 0; id < row_.size(); ++id) row_[id] *= id % 2 == 0 ? 1.01 : 0.99;
      return row_;
    }
    return now[i];
  }

  bool examines(Place place) const {
    if (is(Defect::kM03)) return false;
    if (is(Defect::kM11)) return place.index != 0;
    if (is(Defect::kM12)) return place.index + 1 != place.drafts;
    return true;
  }

  bool accepts(double u, double q, double p) const {
    if (is(Defect::kM04)) return kilotoken::accepts(u, p, q);
    if (is(Defect::kM06) || is(Defect::kG03)) return kilotoken::accepts(u, 1.0, p);
    if (is(Defect::kH04)) return u < 0.8;
    if (is(Defect::kM24)) return kilotoken::accepts(u, 0.9 * q, p);
    if (is(Defect::kM25)) return kilotoken::accepts(u, 0.99 * q, p);
    return kilotoken::accepts(u, q, p);
  }

  void residual(const Refusal& r, std::vector<double>& out) {
    const std::vector<double>* p = &r.p;
    const std::vector<double>* q = &r.q;
    if (is(Defect::kM10)) {
      processed_row(r.rows.target + (r.place.index + 1) * r.rows.vocab, r.rows.vocab, r.filters, next_);
      p = &next_;
    }
    if (is(Defect::kM29)) q = &r.draft_rows[0];
    out = *p;
    if (is(Defect::kM01)) return;
    if (is(Defect::kM05) || is(Defect::kG03)) {
      out[static_cast<size_t>(r.token)] = 0.0;
      normalise(*p, out);
      return;
    }
    if (is(Defect::kM02)) {
      for (size_t id = 0; id < out.size(); ++id) out[id] = std::fabs((*p)[id] - (*q)[id]);
      normalise(*p, out);
      return;
    }
    residual_row(p->data(), q->data(), static_cast<int>(out.size()), out.data());
    if (is(Defect::kM27))
      for (size_t id = 0; id < out.size(); ++id) out[id] = 0.98 * out[id] + (id == 0 ? 0.02 : 0.0);
  }

  bool emits_correction(Place place) const { return !is(Defect::kM22) || place.index == 0; }

  uint32_t number_position(uint32_t position, uint32_t first) const { return is(Defect::kM32) ? first : position; }
  Stream coin_stream() const { return is(Defect::kM31b) ? Stream::kDraftSample : Stream::kAcceptCoin; }
  Stream correction_stream() const { return is(Defect::kM30) ? Stream::kAcceptCoin : Stream::kResidualSample; }

  void extend(const DraftModel& draft, SequenceState& context, std::span<const float> taps, size_t rows, size_t verified) {
    context.truncate(context.length() - ahead_);
    ahead_ = is(Defect::kAnchor) && verified < rows ? 1 : 0;
    draft.extend(context, taps.first(taps.size() / rows * (verified + ahead_)), verified + ahead_);
  }

  size_t cached(size_t kept, size_t rows) const {
    if (is(Defect::kM20) && kept < rows) return kept + 1;
    if (is(Defect::kM21) && kept == rows && rows > 1) return kept - 1;
    return kept;
  }

  uint64_t left(uint64_t max_tokens, uint64_t emitted, const RoundCount& round) const {
    if (!is(Defect::kM38)) return max_tokens - emitted;
    return round.before + 1 >= max_tokens ? round.committed : round.committed + 1;
  }
  bool cuts_at_stop() const { return !is(Defect::kM37); }

  void remember(const std::vector<std::vector<double>>& rows) { before_ = rows; }

 private:
  bool is(Defect defect) const { return defect_ == defect; }

  static void normalise(const std::vector<double>& fallback, std::vector<double>& row) {
    const double mass = std::accumulate(row.begin(), row.end(), 0.0);
    if (!(mass > 0.0)) row = fallback;
    else
      for (double& value : row) value /= mass;
  }

  Defect defect_ = Defect::kNone;
  size_t ahead_ = 0;                         // places of the draft's context that it must not have
  std::vector<std::vector<double>> before_;  // draft rows of the round before
  std::vector<double> row_, next_;
  std::vector<float> scratch_;
};

}  // namespace kilotoken
