#include "stack_model.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "core/random.h"
#include "core/ties.h"
#include "kernels/stack.h"
#include "kernels/synthetic/source.h"
#include "native/engine/fault.h"
#include "reference/cpu/sampling.h"
#include "reference/fp8/device.h"
#include "stack_source.h"

namespace kilotoken {

namespace {

constexpr size_t kMostStopIds = 16;
constexpr size_t kStackRows = 8;  // of a step

// Faults of the stack as those that the addon knows.
template <class Body>
auto with_faults(Body body) {
  try {
    return body();
  } catch (const stack::KernelFault& fault) {
    throw fp8::DeviceFault(fault.what());
  } catch (const stack::DeviceError& error) {
    throw EnvironmentFault(error.what());
  } catch (const std::invalid_argument& error) {
    throw InputFault(error.what());
  }
}

stack::DecodeRule rule_of(Rule rule) {
  switch (rule) {
    case Rule::kMatch: return stack::DecodeRule::kMatch;
    case Rule::kReject: return stack::DecodeRule::kReject;
    case Rule::kCoupled: return stack::DecodeRule::kCoupled;
  }
  return stack::DecodeRule::kMatch;
}

// One step on the GPU at a time: sessions share the stack's workspace, from which rows are read after a step.
struct Shared {
  std::shared_ptr<stack::Stack> stack;
  std::mutex step;
};

class StackDecodeSession final : public DecodeSession {
 public:
  StackDecodeSession(std::shared_ptr<Shared> shared, size_t vocab, stack::Request request, SessionOptions options)
      : shared_(std::move(shared)), vocab_(vocab), request_(std::move(request)), options_(std::move(options)), length_(request_.prompt.size()) {}

  bool finished() const override { return finished_; }

  Round step() override {
    return with_faults([&] {
      const std::scoped_lock lock(shared_->step);
      const auto began = std::chrono::steady_clock::now();
      if (!session_) session_ = shared_->stack->open(request_);
      // Rows are read after each round, so it must leave them: the resident kernel runs on into the next.
      const auto rounds = session_->run(1, options_.replay ? stack::Mode::kOps : stack::Mode::kResident);
      if (rounds.size() != 1) throw fp8::DeviceFault("the stack made no round");
      Round round = round_of(rounds[0]);
      round.total_ns = static_cast<uint64_t>(std::chrono::nanoseconds(std::chrono::steady_clock::now() - began).count());
      if (round.draft_ns + round.verify_ns >= round.total_ns) {  // the GPU's clock began with the round before: no telling the parts
        round.draft_ns = 0;
        round.verify_ns = round.total_ns;
      }
      if (options_.replay) record(rounds[0], round.replay);
      length_ += round.committed.size();
      finished_ = round.finish != Finish::kNone;
      ++index_;
      return round;
    });
  }

  std::unique_ptr<DecodeSession> fork() const override {
    return with_faults([&] {
      const std::scoped_lock lock(shared_->step);
      auto copy = std::make_unique<StackDecodeSession>(shared_, vocab_, request_, options_);
      if (session_) copy->session_ = session_->fork();
      copy->length_ = length_;
      copy->index_ = index_;
      copy->finished_ = finished_;
      return copy;
    });
  }

 private:
  static Round round_of(const stack::StackRound& from) {
    Round round;
    round.prefill = from.prefill;
    round.committed = from.committed;
    round.drafted = from.drafted;
    round.accepted = from.accepted;
    round.finish = from.finish == 0 ? Finish::kNone : from.finish == 1 ? Finish::kStop : Finish::kLength;
    round.draft_ns = from.draft_ns;
    round.verify_ns = from.verify_ns;
    round.distinct_experts = from.distinct_experts;
    return round;
  }

  bool greedy() const { return request_.temperature == 0; }

  std::vector<double> log_row_of(const float* logits) const {
    std::vector<double> p, log_p;
    if (greedy()) {
      log_p.assign(vocab_, -std::numeric_limits<double>::infinity());
      log_p[static_cast<size_t>(argmax(logits, static_cast<int>(vocab_)))] = 0.0;
      return log_p;
    }
    processed_row(logits, vocab_, Filters{request_.temperature, request_.top_p, request_.top_k}, p);
    log_row(p, log_p);
    return log_p;
  }

  void note_uniform(Stream stream, size_t position, uint32_t round, Replay& replay) const {
    const auto at = static_cast<uint32_t>(position);
    replay.uniforms.push_back({stream, at, round, uniform(request_.seed, at, stream, round)});
  }
  void note_noise(bool draft, size_t position, Replay& replay) const {
    std::vector<double> u(vocab_);
    for (size_t token = 0; token < vocab_; ++token)
      u[token] = gumbel_uniform(request_.seed, static_cast<uint32_t>(position), static_cast<uint32_t>(token));
    replay.noise.push_back({draft, static_cast<uint32_t>(position), std::move(u)});
  }
  // The target's own token of a position.
  void note_target(size_t position, Replay& replay) const {
    if (greedy()) return;
    if (options_.rule == Rule::kCoupled) note_noise(/*draft=*/false, position, replay);
    else note_uniform(Stream::kTargetSample, position, 0, replay);
  }

  // In the order of reference/cpu/decode.cpp: what the draft drew, the target's rows, what decided.
  void record(const stack::StackRound& round, Replay& replay) const {
    const std::vector<float> target = session_->logits(/*draft=*/false);
    if (round.prefill) {
      const size_t last = (request_.prompt.size() - 1) % kStackRows;  // prompts go through in steps of eight rows
      replay.p.push_back(log_row_of(target.data() + last * vocab_));
      return note_target(length_, replay);
    }
    const size_t drafts = round.drafted.size();
    const bool by_rejection = options_.rule == Rule::kReject && options_.block_size > 1 && !greedy();
    if (drafts > 0 && !greedy() && options_.rule != Rule::kMatch) {
      const std::vector<float> draft = session_->logits(/*draft=*/true);  // row i predicts the token i places behind the anchor
      for (size_t i = 0; i < drafts; ++i) {
        replay.q.push_back(log_row_of(draft.data() + (i + 1) * vocab_));
        if (options_.rule == Rule::kCoupled) note_noise(/*draft=*/true, length_ + i, replay);
        else note_uniform(Stream::kDraftSample, length_ + i, index_, replay);
      }
    }
    for (size_t i = 0; i <= drafts; ++i) replay.p.push_back(log_row_of(target.data() + i * vocab_));
    if (!by_rejection) {
      for (size_t i = 0; i <= round.accepted; ++i) note_target(length_ + i, replay);
      return;
    }
    for (size_t i = 0; i < std::min<size_t>(round.accepted + 1, drafts); ++i) note_uniform(Stream::kAcceptCoin, length_ + i, index_, replay);
    note_uniform(Stream::kResidualSample, length_ + round.accepted, index_, replay);
  }

  std::shared_ptr<Shared> shared_;
  const size_t vocab_;
  const stack::Request request_;
  const SessionOptions options_;
  std::unique_ptr<stack::StackSession> session_;  // opened by the first step, which may wait for others
  size_t length_;                                 // of prompt and output
  uint32_t index_ = 0;                            // of the round; 0 is the prefill
  bool finished_ = false;
};

class StackModel final : public Decodable {
 public:
  StackModel(std::shared_ptr<stack::Stack> stack, size_t vocab, size_t max_context, size_t block)
      : shared_(std::make_shared<Shared>()), vocab_(vocab), max_context_(max_context), block_(block) {
    shared_->stack = std::move(stack);
  }

  std::unique_ptr<DecodeSession> open(std::vector<int32_t> prompt, Decoding decoding, SessionOptions options) const override {
    check_open(prompt, decoding, options);
    if (decoding.stop_ids.size() > kMostStopIds) throw InputFault("the stack takes at most " + std::to_string(kMostStopIds) + " stop ids");
    stack::Request request;
    request.prompt = std::move(prompt);
    request.seed = decoding.seed;
    request.temperature = decoding.temperature;
    request.top_p = decoding.top_p;
    request.top_k = static_cast<uint32_t>(std::min(decoding.top_k, vocab_));
    request.max_tokens = decoding.max_tokens;
    request.stop_ids = std::move(decoding.stop_ids);
    request.rule = rule_of(options.rule);
    request.block_size = static_cast<int>(options.block_size);
    return std::make_unique<StackDecodeSession>(shared_, vocab_, std::move(request), std::move(options));
  }

  Scored score(const std::vector<int32_t>& ids, size_t top_k, size_t chunk) const override {
    check_score(ids, chunk);
    return with_faults([&] {
      const std::scoped_lock lock(shared_->step);
      const std::vector<float> logits = shared_->stack->score(ids, static_cast<int>(std::min(chunk, kStackRows)));
      Scored scored;
      for (size_t i = 0; i < ids.size(); ++i) score_row(logits.data() + i * vocab_, vocab_, ids, i, top_k, scored);
      return scored;
    });
  }

  std::vector<TopRow> draft(const std::vector<int32_t>&, size_t) const override {
    throw InputFault("the stack's draft shows its rows only in the replay of a round");
  }

  size_t vocab_size() const override { return vocab_; }
  size_t max_context() const override { return max_context_; }
  size_t draft_block_size() const override { return block_; }

 private:
  std::shared_ptr<Shared> shared_;
  const size_t vocab_, max_context_, block_;
};

}  // namespace

std::shared_ptr<const Decodable> load_stack_cuda(const ModelSpec& spec) {
  check_spec(spec);
  return with_faults([&] {
    fp8::require_device();
    const stack::TargetShape target = stack_target(spec.target);
    std::optional<stack::DraftShape> draft;
    if (spec.has_draft) draft = stack_draft(spec.draft);
    const auto source = checkpoint_source(spec);
    auto made = stack::Stack::make(0, target, draft ? &*draft : nullptr, *source);
    return std::make_shared<const StackModel>(std::move(made), spec.target.vocab, spec.target.max_context,
                                              draft ? static_cast<size_t>(draft->block_size) : 1);
  });
}

std::shared_ptr<const Decodable> load_stack_cuda(const SyntheticSpec& spec) {
  if (const char* misfit = synthetic_misfit(spec.shape, spec.shard)) throw InputFault(std::string("pro-synthetic: ") + misfit);
  return with_faults([&] {
    fp8::require_device();
    const stack::TargetShape target = stack::synthetic_target(spec.shape, spec.shard, static_cast<int>(spec.max_context));
    const stack::DraftShape draft = stack::synthetic_draft(spec.shape, spec.shard);
    const auto source = stack::synthetic_source(spec.seed, spec.shape, spec.shard);
    auto made = stack::Stack::make(0, target, &draft, *source);
    return std::make_shared<const StackModel>(std::move(made), static_cast<size_t>(target.vocab), spec.max_context,
                                              static_cast<size_t>(draft.block_size));
  });
}

std::shared_ptr<const Decodable> load_stack_toy(const ToySpec& spec) {
  load_toy(spec);  // checks the tables
  return with_faults([&] {
    fp8::require_device();
    stack::ToyTables tables{static_cast<int>(spec.vocab), static_cast<int>(spec.order), static_cast<int>(spec.block),
                            static_cast<int>(spec.max_context), spec.target_logits, spec.draft_logits};
    return std::make_shared<const StackModel>(stack::Stack::make_toy(0, tables), spec.vocab, spec.max_context, spec.block);
  });
}

}  // namespace kilotoken
