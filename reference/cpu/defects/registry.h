// Known mistakes of speculative samplers and of the networks behind them, one line each, by the ids of the published catalogue. Only a
// build with KILOTOKEN_DEFECTS contains them; a session is opened with at most one, a checkpoint loaded with at most one.
#pragma once

#include <array>

namespace kilotoken {

enum class Defect {
  kNone,
  kM01, kM02, kM03, kM04, kM05, kM06, kM07, kM08, kM09, kM10, kM11, kM12, kM13, kM14, kM15, kM16, kM18, kM19, kM20, kM21, kM22,
  kM23, kM24, kM25, kM26, kM27, kM28, kM29, kM30, kM31b, kM32, kM34, kM35, kM37, kM38, kG02, kG03, kH04, kAnchor,
};

struct DefectEntry {
  Defect defect;
  const char* id;
  const char* title;
};

inline constexpr std::array kDefects{
    DefectEntry{Defect::kM01, "M01", "residual drawn from p instead of max(p - q, 0)"},
    DefectEntry{Defect::kM02, "M02", "residual |p - q|: the clamp is lost"},
    DefectEntry{Defect::kM03, "M03", "every draft is accepted"},
    DefectEntry{Defect::kM04, "M04", "acceptance ratio upside down: q / p"},
    DefectEntry{Defect::kM05, "M05", "accept by p / q, residual p without the refused token"},
    DefectEntry{Defect::kM06, "M06", "accept by p alone (q dropped), residual max(p - q, 0)"},
    DefectEntry{Defect::kM07, "M07", "bonus token from the row one place early"},
    DefectEntry{Defect::kM08, "M08", "bonus token from the last draft row"},
    DefectEntry{Defect::kM09, "M09", "bonus token is the argmax"},
    DefectEntry{Defect::kM10, "M10", "residual from the target row after the refused token"},
    DefectEntry{Defect::kM11, "M11", "verification starts at the second draft"},
    DefectEntry{Defect::kM12, "M12", "verification ends before the last draft"},
    DefectEntry{Defect::kM13, "M13", "temperature is not applied to the rows of a verify step"},
    DefectEntry{Defect::kM14, "M14", "top-p is applied to the bonus row only"},
    DefectEntry{Defect::kM15, "M15", "q is the unprocessed softmax, drafts come from the processed one"},
    DefectEntry{Defect::kM16, "M16", "drafts are argmaxes, the ratio still uses q"},
    DefectEntry{Defect::kM18, "M18", "q rows shifted by one slot"},
    DefectEntry{Defect::kM19, "M19", "q rows of the round before (stale buffer)"},
    DefectEntry{Defect::kM20, "M20", "the refused draft stays in the target's cache"},
    DefectEntry{Defect::kM21, "M21", "behind a full block the target's cache is one place short"},
    DefectEntry{Defect::kM22, "M22", "a refusal after the first draft emits no correction"},
    DefectEntry{Defect::kM23, "M23", "p of the draft is zeroed in place before the ratio reads it"},
    DefectEntry{Defect::kM24, "M24", "accept by p / (0.9 q)"},
    DefectEntry{Defect::kM25, "M25", "accept by p / (0.99 q)"},
    DefectEntry{Defect::kM26, "M26", "verification by argmax at a temperature above 0"},
    DefectEntry{Defect::kM27, "M27", "2 % of the residual leaks to token 0"},
    DefectEntry{Defect::kM28, "M28", "q is off by 1 % up or down between draw and ratio"},
    DefectEntry{Defect::kM29, "M29", "residual uses the first draft row at every slot"},
    DefectEntry{Defect::kM30, "M30", "the residual draw reuses the accept coin"},
    DefectEntry{Defect::kM31b, "M31b", "the accept coin is the number that drew the draft"},
    DefectEntry{Defect::kM32, "M32", "one number for the whole block"},
    DefectEntry{Defect::kM34, "M34", "cumulative >= u: a token of probability 0 at u = 0"},
    DefectEntry{Defect::kM35, "M35", "a row that rounding exhausts falls through to the last id"},
    DefectEntry{Defect::kM37, "M37", "tokens behind a stop id inside a block are kept"},
    DefectEntry{Defect::kM38, "M38", "the token limit counts steps"},
    DefectEntry{Defect::kG02, "G02", "argmax drafts, q their point mass (lossless, slower)"},
    DefectEntry{Defect::kG03, "G03", "accept by p alone, residual p without the draft (lossless, slower)"},
    DefectEntry{Defect::kH04, "H04", "synthetic acceptance is left on: four of five drafts pass, whatever the rows say"},
    DefectEntry{Defect::kAnchor, "anchor", "the draft's context reaches over the anchor's place, with the taps of what was refused there"},
};

enum class NetworkDefect {
  kNone,
  kTap, kMaskRow, kDraftRope, kDraftValueScale, kDraftSink, kCausalBlock,
  kRope, kValueScale, kSinkDropped, kSinkGlobal, kQkvOrder, kScaleRow, kNibble, kScaleBias126, kScaleBias128, kSwiglu, kRouterBias,
  kTopKNorm,
};

struct NetworkDefectEntry {
  NetworkDefect defect;
  const char* id;
  const char* title;
  bool target;  // of the target, and so of both arms of a comparison of speculation on and off; else of the draft alone
};

inline constexpr std::array kNetworkDefects{
    NetworkDefectEntry{NetworkDefect::kTap, "tap", "draft taps are read one layer early", false},
    NetworkDefectEntry{NetworkDefect::kMaskRow, "mask row", "the embedding row of the mask token is not overridden", false},
    NetworkDefectEntry{NetworkDefect::kDraftRope, "rope draft", "rotary embedding over the draft's full head dimension", false},
    NetworkDefectEntry{NetworkDefect::kDraftValueScale, "value scale draft", "the draft's attention value scale is dropped", false},
    NetworkDefectEntry{NetworkDefect::kDraftSink, "sink dropped draft", "the draft's attention sinks are dropped", false},
    NetworkDefectEntry{NetworkDefect::kCausalBlock, "causal block", "the draft attends causally within its block", false},
    NetworkDefectEntry{NetworkDefect::kRope, "rope", "rotary embedding over the target's full head dimension", true},
    NetworkDefectEntry{NetworkDefect::kValueScale, "value scale", "the target's attention value scale is dropped", true},
    NetworkDefectEntry{NetworkDefect::kSinkDropped, "sink dropped", "the attention sink is dropped on sliding layers", true},
    NetworkDefectEntry{NetworkDefect::kSinkGlobal, "sink global", "an attention sink of logit 0 is added on global layers", true},
    NetworkDefectEntry{NetworkDefect::kQkvOrder, "qkv order", "fused QKV is read as all Q, all K, all V", true},
    NetworkDefectEntry{NetworkDefect::kScaleRow, "scale row", "FP8 scale rows of fused QKV do not restart at each group", true},
    NetworkDefectEntry{NetworkDefect::kNibble, "nibble", "MXFP4 nibbles are swapped", true},
    NetworkDefectEntry{NetworkDefect::kScaleBias126, "scale bias 126", "the MXFP4 scale exponent has a bias of 126", true},
    NetworkDefectEntry{NetworkDefect::kScaleBias128, "scale bias 128", "the MXFP4 scale exponent has a bias of 128", true},
    NetworkDefectEntry{NetworkDefect::kSwiglu, "swiglu", "SwiGLU is clamped at 7", true},
    NetworkDefectEntry{NetworkDefect::kRouterBias, "router bias", "the correction bias enters the router weights", true},
    NetworkDefectEntry{NetworkDefect::kTopKNorm, "top-k norm", "router weights of the chosen experts are not normalised", true},
};

}  // namespace kilotoken
