// The feed-forward half of a layer: one dense SwiGLU, or a mixture of experts.
#pragma once

#include <cstdint>
#include <vector>

#include "linear_input.h"
#include "plan.h"
#include "router.h"
#include "weights.h"

namespace kilotoken {

// Buffers of one session, grown to the largest step seen.
struct FfnScratch {
  AlignedVector<float> gate, up, expert_plain, expert_fp8, expert_out, router;
  InputScratch down_input;
  std::vector<ExpertChoice> chosen;
  std::vector<size_t> expert_rows;
  std::vector<float> expert_weights, biased;
  std::vector<int> ids;
};

// y = down(silu(gate(x)) * up(x)); y: [rows][w.down.rows].
void swiglu_ffn(const Ops& ops, Activations activations, const FfnWeights& w, const LinearInput& in, FfnScratch& s, float* y);

// y = sum over the chosen experts, in ascending index, of weight * expert(x); y: [rows][hidden].
// touched: [experts], set to 1 where a row chose the expert.
void mixture_ffn(const Ops& ops, Activations activations, const TargetPlan& plan, const MixtureWeights& w,
                 const LinearInput& in, FfnScratch& s, float* y, uint8_t* touched);

}  // namespace kilotoken
