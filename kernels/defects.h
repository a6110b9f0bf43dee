// Known mistakes of the device code, one line each at the place where they could be made. Tests show that each of them is noticed (test/gpu/stack_defects.cu). Only a
// build with KILOTOKEN_GPU_DEFECTS contains them, at most one at a time; in any other, defect() is a constant and nothing of them is left.
#pragma once

#include <array>

#include <cuda_runtime.h>

namespace kilotoken::stack {

enum class Defect : int {
  kNone,
  kWindow, kLaterDraft, kSink, kRope, kValueScale, kQueryLow, kStaleKey, kCausalBlock, kExpertDropped, kExpertOrder, kTies, kWeights, kSquares, kStalePart,
  kBonusRow, kOneTooMany, kKeptPlace, kSeedPosition, kCoin, kLostReport,
};

struct DefectEntry {
  Defect defect;
  const char* id;
  const char* title;
  const char* operation;  // of the tests of single operations, that touches it; null: none
};

inline constexpr std::array kDefects{
    DefectEntry{Defect::kWindow, "window", "a key one place beyond the window is visible", "window"},
    DefectEntry{Defect::kLaterDraft, "later draft", "a verify row sees the draft behind it", "attend"},
    DefectEntry{Defect::kSink, "sink", "the attention sink is left out of the denominator", "window"},
    DefectEntry{Defect::kRope, "rope", "queries turn as if they stood one position further", "qkv"},
    DefectEntry{Defect::kValueScale, "value scale", "the value scale is dropped on sliding layers", "window"},
    DefectEntry{Defect::kQueryLow, "query low", "the low part of a query is left out of its scores", "window"},
    DefectEntry{Defect::kStaleKey, "stale key", "the place of a refused draft keeps its key and value", nullptr},
    DefectEntry{Defect::kCausalBlock, "causal block", "the draft attends causally within its block", "attend"},
    DefectEntry{Defect::kExpertDropped, "expert dropped", "the last chosen expert of a row is dropped", "up"},
    DefectEntry{Defect::kExpertOrder, "expert order", "experts are summed in an order that depends on how many the step chose", "down"},
    DefectEntry{Defect::kTies, "ties", "equal router scores go to the higher id", "topk"},
    DefectEntry{Defect::kWeights, "weights", "the weights of the chosen experts are not normalised", "topk"},
    DefectEntry{Defect::kSquares, "squares", "a row's norm is taken from its neighbour's squares", "swiglu"},
    DefectEntry{Defect::kStalePart, "stale part", "sums are taken whatever their mark says", nullptr},
    DefectEntry{Defect::kBonusRow, "bonus row", "the bonus token comes from the row before", "accept"},
    DefectEntry{Defect::kOneTooMany, "one too many", "the first refused draft is accepted", "accept"},
    DefectEntry{Defect::kKeptPlace, "kept place", "the caches keep one place too many behind a refusal", "accept"},
    DefectEntry{Defect::kSeedPosition, "seed position", "a token is drawn with the next position's number", "pick"},
    DefectEntry{Defect::kCoin, "coin", "under `reject`, a draft passes by its probability alone", nullptr},
    DefectEntry{Defect::kLostReport, "lost report", "a block does not report that it has finished", nullptr},
};

#ifdef KILOTOKEN_GPU_DEFECTS

// Before a launch; all kernels of the process from then on have it.
cudaError_t set_defect(Defect defect);

#ifdef __CUDACC__
static __device__ volatile Defect in_force;
__device__ __forceinline__ bool defect(Defect which) { return in_force == which; }
#endif

#else

__device__ constexpr bool defect(Defect) { return false; }

#endif

}  // namespace kilotoken::stack
