// Known mistakes of speculative samplers, one line each, by the ids of the published catalogue. Only a build with KILOTOKEN_DEFECTS
// contains them; a session is opened with at most one.
#pragma once

#include <array>

namespace kilotoken {

enum class Defect {
  kNone,
  kM01, kM02, kM03, kM04, kM05, kM06, kM07, kM08, kM09, kM10, kM11, kM12, kM13, kM14, kM15, kM16, kM18, kM19, kM20, kM21, kM22,
  kM23, kM24, kM25, kM26, kM27, kM28, kM29, kM30, kM31b, kM32, kM34, kM35, kM37, kM38, kG02, kG03,
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
};

}  // namespace kilotoken
