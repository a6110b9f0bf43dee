// The decode loop of one sequence: prefill, then rounds. A plain round looks at one token; a speculative round drafts a block,
// verifies it in one target step and keeps the longest prefix the rule accepts, plus one token of the target's own.
// Plain decoding is the same loop with a block of 1, so the two differ in nothing else.
// Every random number is addressed by the position of the token it decides (core/random.h), so `match` and `coupled` emit the
// very tokens of plain decoding; `reject` emits tokens of the same law.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/random.h"
#include "decisions.h"
#include "model.h"
#include "sampling.h"

namespace kilotoken {

enum class Rule { kMatch, kReject, kCoupled };
enum class Finish { kNone, kStop, kLength };

struct Decoding {
  uint64_t seed = 0;
  double temperature = 0;  // 0: greedy for target and draft, whatever the rule
  double top_p = 1;
  size_t top_k = 0;
  uint64_t max_tokens = 1;
  std::vector<int32_t> stop_ids;
};

struct UniformUse {
  Stream stream;
  uint32_t position;
  uint32_t round;
  double u;  // of draw 0
};

// The Gumbel noise of one pick under `coupled`, whose counters are (position, kGumbel, token / 2, round 0).
struct NoiseUse {
  bool draft;  // or the target's own token
  uint32_t position;
  std::vector<double> u;  // [vocab]; the noise is -log(-log u)
};

// What decided a round. Rows are natural-log probabilities after the filters; a greedy row is a point mass.
struct Replay {
  std::vector<std::vector<double>> p;  // one per verified position
  std::vector<std::vector<double>> q;  // one per draft; empty when drafts are plain argmaxes
  std::vector<UniformUse> uniforms;    // in order of use
  std::vector<NoiseUse> noise;         // `coupled`, in order of use
};

struct Round {
  bool prefill = false;
  std::vector<int32_t> committed;
  std::vector<int32_t> drafted;
  uint32_t accepted = 0;  // drafts that passed, before the cut at a stop id or a limit
  Finish finish = Finish::kNone;
  uint64_t draft_ns = 0, verify_ns = 0, total_ns = 0;
  std::vector<uint32_t> distinct_experts;  // per mixture layer
  Replay replay;                           // empty unless asked for
};

struct SessionOptions {
  size_t block_size = 1;  // anchor and drafts; 1: plain
  Rule rule = Rule::kMatch;
  bool replay = false;
  // Numbers in (or at the lower edge of) [0, 1) that are read in order of use, and then from the first again, where uniforms would be
  // drawn: how decisions at the edges of their range are reached. Empty: none. The noise of `coupled` is drawn all the same.
  std::vector<double> tape;
  [[no_unique_address]] Decisions decisions;
};

class Session {
 public:
  // `draft` may be null when block_size is 1. The caller has checked: ids in range, 1 <= prompt length < max_context,
  // block_size <= draft's, decoding values in range.
  Session(std::shared_ptr<const TargetModel> target, std::shared_ptr<const DraftModel> draft, std::vector<int32_t> prompt,
          Decoding decoding, SessionOptions options);

  bool finished() const { return finish_ != Finish::kNone; }

  // One round; the first is the prefill and commits one token. Must not be called on a finished session. If it throws, the
  // session is of no further use.
  Round step();

  // A copy that continues from here with the same seed and positions.
  std::unique_ptr<Session> fork() const;

 private:
  void prefill(Round& round);
  void decode(Round& round);
  void draft_block(size_t block, Round& round);
  void verify_by_equality(size_t block, Round& round);
  void verify_by_rejection(size_t block, Round& round);
  int32_t target_token(const float* logits, const Filters& filters, uint32_t position, Round& round);
  int32_t coupled_token(uint32_t position, bool draft, Round& round) const;
  double draw(Stream stream, uint32_t position, uint32_t index, Round& round);
  void record_rows(size_t rows, Round& round) const;
  void commit(Round& round);

  bool greedy() const { return decoding_.temperature == 0; }
  Filters filters() const { return {decoding_.temperature, decoding_.top_p, decoding_.top_k}; }
  BlockRows block_rows() const { return {out_.logits.data(), draft_logits_.data(), target_->vocab_size()}; }
  uint32_t anchor_position() const { return static_cast<uint32_t>(tokens_.size() - 1); }

  std::shared_ptr<const TargetModel> target_;
  std::shared_ptr<const DraftModel> draft_;
  Decoding decoding_;
  SessionOptions options_;
  std::vector<int32_t> tokens_;  // prompt and output; the last one, the anchor, has been through neither network
  size_t prompt_length_;
  uint32_t round_index_ = 0;  // 0 is the prefill
  size_t tape_index_ = 0;
  Finish finish_ = Finish::kNone;
  std::unique_ptr<SequenceState> target_state_, draft_state_;

  // Of the round in progress.
  StepOutput out_;
  std::vector<float> draft_logits_;         // [block - 1][vocab]
  std::vector<std::vector<double>> draft_rows_;  // processed, when the rule samples drafts
  std::vector<double> p_, log_p_, residual_;
};

}  // namespace kilotoken
