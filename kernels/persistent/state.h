// One sequence on the device: what the kernel decides on and what the host reads of it. The device owns SessionState while a kernel runs;
// the mailbox and the fault live in pinned host memory.
#pragma once

#include <cstdint>

#include "kernels/ptx/memory.cuh"
#include "kernels/shapes.h"

namespace kilotoken::stack {

enum class Rule : uint32_t { kMatch, kReject, kCoupled };
enum class Phase : uint32_t { kPrefill, kDecode, kStopped, kFull };

inline constexpr int kMaxStopIds = 16;
inline constexpr int kMaxLayers = 128;
inline constexpr int kMailboxRounds = 256;

struct SessionState {
  // Fixed by open().
  uint64_t seed;
  double temperature, top_p;  // temperature 0: greedy
  uint32_t top_k;
  Rule rule;
  uint32_t block_size;        // 1: plain
  uint32_t max_context;
  uint64_t max_tokens;
  uint32_t prompt_length;
  int32_t stop_ids[kMaxStopIds];
  uint32_t stop_count;
  int32_t* tokens;            // device, [max_context + 8]: prompt and output
  const int32_t* proposals;   // device, [max_context + 8], by position: stand in for the draft's choices, made in full all the same; or null

  // Changes by round.
  Phase phase;
  uint32_t round;
  uint32_t length;            // of tokens; the last one, the anchor, has been through no network
  uint32_t start;             // positions in the caches = the anchor's place (or the next prefill position)
  uint32_t rows;              // of the step in progress: 1 .. 8
  int32_t step[kRows];        // its tokens
  // Written by kPick, read by kAccept.
  int32_t target_token[kRows];  // plain decoding's token behind each row; under `reject` the bonus token
  int32_t corrected[kRows];     // under `reject`: from max(p - q, 0)
  uint32_t passed[kRows];       // under `reject`: the coin of row i's draft
  uint64_t began_ns, drafted_ns;
  uint32_t touched[kMaxLayers];  // distinct experts of the last step, by mixture layer
  uint32_t mixture_layers;
};

// How often the two parts of a list have run since the model was made: buffers of parts tell their uses apart by it. One for all sequences of a model.
struct Epoch {
  uint32_t drafts, verifies;
};

// One finished round, as the host reads it. `sequence` is written last.
struct RoundRecord {
  uint32_t sequence;  // 1 + the number of rounds before
  uint32_t committed_count, drafted_count, accepted, finish;  // finish: 0 none, 1 stop, 2 length
  uint32_t rows, start;
  int32_t committed[kRows], drafted[kRows];
  uint64_t began_ns, drafted_ns, ended_ns;  // %globaltimer
  uint32_t distinct_experts[kMaxLayers];
};

struct Mailbox {
  ptx::Fault fault;
  RoundRecord rounds[kMailboxRounds];
};

}  // namespace kilotoken::stack
