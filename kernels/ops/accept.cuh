// The end of a round: which drafts passed, which tokens are committed, whether the sequence ends, and what the next step looks like. One
// thread of one block. Rolling the caches back is forgetting: `start` moves only past verified tokens, and what lies behind it is overwritten.
// The same decisions in the same order as the CPU's decode loop.
#pragma once

#include "block.cuh"

namespace kilotoken::stack {

// The next step: a part of the prompt, or a block behind the anchor.
__device__ __forceinline__ void prepare_step(SessionState& s) {
  if (s.phase == Phase::kPrefill) {
    s.rows = min(static_cast<uint32_t>(kRows), s.prompt_length - s.start);
#pragma unroll 1
    for (uint32_t i = 0; i < s.rows; ++i) s.step[i] = __ldcg(s.tokens + s.start + i);
  } else {
    s.rows = min(s.block_size, s.max_context - s.length);
    s.step[0] = __ldcg(s.tokens + s.length - 1);
  }
}

__device__ __noinline__ void accept(Place b) {
  SessionState& s = *b.state;
  if (b.index() != 0 || threadIdx.x != 0) return;
  const uint64_t now = ptx::nanoseconds();
  if (s.phase == Phase::kPrefill && s.start + s.rows < s.prompt_length) {
    s.start += s.rows;
    prepare_step(s);
    return;
  }
  const bool prefill = s.phase == Phase::kPrefill;
  const bool rejects = s.rule == Rule::kReject && s.temperature != 0.0 && s.block_size > 1;
  int32_t committed[kRows];
  uint32_t count = 0, accepted = 0;
  if (prefill) {
    committed[count++] = s.target_token[s.rows - 1];
  } else {
#pragma unroll 1
    for (uint32_t i = 0; i < s.rows; ++i) {
      const bool bonus = i + 1 == s.rows;
      if (bonus) {
        committed[count++] = s.target_token[defect(Defect::kBonusRow) && i > 0 ? i - 1 : i];
      } else if (rejects ? s.passed[i] != 0 : s.target_token[i] == s.step[i + 1] || (defect(Defect::kOneTooMany) && i == 0)) {
        committed[count++] = s.step[i + 1];
        ++accepted;
        continue;
      } else {
        committed[count++] = rejects ? s.corrected[i] : s.target_token[i];
      }
      break;
    }
  }
  const uint32_t verified = prefill ? s.rows : count + (defect(Defect::kKeptPlace) && count < s.rows);  // places the caches keep
  const uint64_t left = s.max_tokens - (s.length - s.prompt_length);
  if (count > left) count = static_cast<uint32_t>(left);
  uint32_t finish = 0;
#pragma unroll 1
  for (uint32_t i = 0; i < count && finish == 0; ++i) {
#pragma unroll 1
    for (uint32_t j = 0; j < s.stop_count; ++j) {
      if (committed[i] == s.stop_ids[j]) {
        count = i + 1;
        finish = 1;
        break;
      }
    }
  }
  if (finish == 0 && (count == left || s.length + count >= s.max_context)) finish = 2;

  RoundRecord& record = b.mailbox->rounds[s.round % kMailboxRounds];
  record.committed_count = count;
  record.drafted_count = prefill ? 0 : s.rows - 1;
  record.accepted = accepted;
  record.finish = finish;
  record.rows = s.rows;
  record.start = s.start;
#pragma unroll 1
  for (uint32_t i = 0; i < count; ++i) {
    record.committed[i] = committed[i];
    s.tokens[s.length + i] = committed[i];
  }
#pragma unroll 1
  for (uint32_t i = 0; i + 1 < s.rows && !prefill; ++i) record.drafted[i] = s.step[i + 1];
#pragma unroll 1
  for (uint32_t i = 0; i < s.mixture_layers; ++i) record.distinct_experts[i] = s.touched[i];
  record.began_ns = s.began_ns;
  record.drafted_ns = record.drafted_count > 0 ? s.drafted_ns : s.began_ns;
  record.ended_ns = now;
  __threadfence_system();
  *reinterpret_cast<volatile uint32_t*>(&record.sequence) = s.round + 1;

  s.start += verified;
  s.length += count;
  ++s.round;
  s.began_ns = now;
  s.phase = finish == 0 ? Phase::kDecode : finish == 1 ? Phase::kStopped : Phase::kFull;
  if (finish == 0) prepare_step(s);
}

}  // namespace kilotoken::stack
