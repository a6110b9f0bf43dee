#include "networks.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "../ops.h"
#include "../plan.h"
#include "../weights.h"
#include "core/bf16.h"

namespace kilotoken {

namespace {

constexpr float kSwigluLimit = 7.0f;  // of GPT-OSS, whose layers MiMo's were taken for

void (*swiglu_unclamped)(const float*, const float*, size_t, float*) = nullptr;  // the same bits from every table

// gate from above, up from both sides.
void swiglu_clamped(const float* gate, const float* up, size_t cols, float* y) {
  std::vector<float> g(gate, gate + cols), u(up, up + cols);
  for (float& value : g) value = std::min(value, kSwigluLimit);
  for (float& value : u) value = std::clamp(value, -kSwigluLimit, kSwigluLimit);
  swiglu_unclamped(g.data(), u.data(), cols, y);
}

// A weight that was stored as MXFP4: its scales are folded into its codes.
template <class F>
void each_mxfp4(TargetWeights& weights, const F& f) {
  for (LayerWeights& layer : weights.layers)
    for (FfnWeights& expert : layer.mixture.experts)
      for (LinearWeights* linear : {&expert.gate, &expert.up, &expert.down})
        if (linear->fp8_inputs && linear->scales.empty()) f(*linear);
}

void scale(LinearWeights& w, float factor) {
  for (uint16_t& code : w.codes) code = float_to_bf16(bf16_to_float(code) * factor);
}

}  // namespace

void Networks::plans(TargetPlan& target, DraftPlan& draft) const {
  if (is(NetworkDefect::kTap))
    for (size_t& layer : draft.target_layer_ids) layer = layer > 0 ? layer - 1 : 0;
  if (is(NetworkDefect::kDraftRope)) draft.attention.rotary_dim = draft.attention.head_dim;
  if (is(NetworkDefect::kDraftValueScale)) draft.value_scale = 1;
  if (is(NetworkDefect::kDraftSink)) draft.attention.sink = false;
  if (is(NetworkDefect::kValueScale)) target.value_scale = 1;
  if (is(NetworkDefect::kTopKNorm)) target.normalise_expert_weights = false;
  for (LayerPlan& layer : target.layers) {
    if (is(NetworkDefect::kRope)) layer.attention.rotary_dim = layer.attention.head_dim;
    if (is(NetworkDefect::kSinkDropped)) layer.attention.sink = false;
  }
}

const Ops& Networks::ops(const Ops& best) const {
  if (!is(NetworkDefect::kSwiglu)) return best;
  static std::mutex mutex;
  static std::map<const Ops*, Ops> tables;
  const std::lock_guard<std::mutex> lock(mutex);
  swiglu_unclamped = best.swiglu;
  Ops& table = tables.try_emplace(&best, best).first->second;
  table.swiglu = swiglu_clamped;
  return table;
}

size_t Networks::split_groups(size_t stored, LinearWeights& fused) const {
  if (is(NetworkDefect::kScaleRow))
    for (size_t r = 0; r < fused.scale_row.size(); ++r) fused.scale_row[r] = static_cast<uint32_t>(r / kScaleBlock);
  return is(NetworkDefect::kQkvOrder) ? 1 : stored;
}

void Networks::weights(TargetWeights& w) const {
  if (is(NetworkDefect::kSinkGlobal)) {
    const auto with = std::find_if(w.layers.begin(), w.layers.end(), [](const LayerWeights& l) { return !l.attention.sinks.empty(); });
    if (with == w.layers.end()) return;
    for (LayerWeights& layer : w.layers)
      if (layer.attention.sinks.empty()) layer.attention.sinks.assign(with->attention.sinks.size(), 0.0f);
  }
  if (is(NetworkDefect::kNibble))
    each_mxfp4(w, [](LinearWeights& linear) {
      for (size_t k = 0; k + 1 < linear.codes.size(); k += 2) std::swap(linear.codes[k], linear.codes[k + 1]);  // rows are even long
    });
  if (is(NetworkDefect::kScaleBias126)) each_mxfp4(w, [](LinearWeights& linear) { scale(linear, 2.0f); });
  if (is(NetworkDefect::kScaleBias128)) each_mxfp4(w, [](LinearWeights& linear) { scale(linear, 0.5f); });
}

}  // namespace kilotoken
