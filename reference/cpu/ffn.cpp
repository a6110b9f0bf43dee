#include "ffn.h"

#include <algorithm>

namespace kilotoken {

namespace {

template <class V>
void grow(V& v, size_t n) {
  if (v.size() < n) v.resize(n);
}

}  // namespace

void swiglu_ffn(const Ops& ops, Activations activations, const FfnWeights& w, const LinearInput& in, FfnScratch& s, float* y) {
  const size_t width = w.gate.rows;
  grow(s.gate, in.rows * width);
  grow(s.up, in.rows * width);
  apply_linear(ops, w.gate, in, s.gate.data());
  apply_linear(ops, w.up, in, s.up.data());
  ops.swiglu(s.gate.data(), s.up.data(), in.rows * width, s.gate.data());
  apply_linear(ops, w.down, linear_input(ops, activations, s.gate.data(), in.rows, width, s.down_input), y);
}

void mixture_ffn(const Ops& ops, Activations activations, const TargetPlan& plan, const MixtureWeights& w,
                 const LinearInput& in, FfnScratch& s, float* y, uint8_t* touched) {
  const size_t rows = in.rows, hidden = plan.hidden, experts = plan.experts, k = plan.experts_per_token;
  grow(s.router, rows * experts);
  apply_linear(ops, w.router, in, s.router.data());
  ops.sigmoid(s.router.data(), rows * experts, s.router.data());
  s.chosen.resize(rows * k);
  for (size_t r = 0; r < rows; ++r)
    choose_experts(plan, s.router.data() + r * experts, w.correction_bias.data(), s.biased, s.ids, s.chosen.data() + r * k);

  grow(s.expert_plain, rows * padded_columns(hidden));
  grow(s.expert_fp8, rows * padded_columns(hidden));
  grow(s.expert_out, rows * hidden);
  std::fill(y, y + rows * hidden, 0.0f);
  for (size_t e = 0; e < experts; ++e) {
    s.expert_rows.clear();
    s.expert_weights.clear();
    for (size_t i = 0; i < rows * k; ++i) {
      if (static_cast<size_t>(s.chosen[i].expert) != e) continue;
      s.expert_rows.push_back(i / k);
      s.expert_weights.push_back(s.chosen[i].weight);
    }
    if (s.expert_rows.empty()) continue;
    touched[e] = 1;

    const size_t count = s.expert_rows.size();
    const auto rows_of = [&](const float* x) { return [&s, x, hidden](size_t i) { return x + s.expert_rows[i] * hidden; }; };
    pack_rows(count, hidden, rows_of(in.plain), s.expert_plain.data());
    pack_rows(count, hidden, rows_of(in.fp8), s.expert_fp8.data());
    const LinearInput gathered{count, nullptr, nullptr, s.expert_plain.data(), s.expert_fp8.data()};
    swiglu_ffn(ops, activations, w.experts[e], gathered, s, s.expert_out.data());
    for (size_t i = 0; i < count; ++i) {
      float* out = y + s.expert_rows[i] * hidden;
      const float* expert_out = s.expert_out.data() + i * hidden;
      for (size_t c = 0; c < hidden; ++c) out[c] += s.expert_weights[i] * expert_out[c];
    }
  }
}

}  // namespace kilotoken
