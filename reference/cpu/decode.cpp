#include "decode.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <span>
#include <utility>

#include "core/accept.h"
#include "decisions.h"

namespace kilotoken {

namespace {

uint64_t now_ns() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

// Adds the time from its making to its end to `total`.
class Stopwatch {
 public:
  explicit Stopwatch(uint64_t& total) : total_(total), start_(now_ns()) {}
  ~Stopwatch() { total_ += now_ns() - start_; }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  uint64_t& total_;
  uint64_t start_;
};

}  // namespace

Session::Session(std::shared_ptr<const TargetModel> target, std::shared_ptr<const DraftModel> draft,
                 std::vector<int32_t> prompt, Decoding decoding, SessionOptions options)
    : target_(std::move(target)),
      draft_(options.block_size > 1 ? std::move(draft) : nullptr),
      decoding_(std::move(decoding)),
      options_(std::move(options)),
      tokens_(std::move(prompt)),
      prompt_length_(tokens_.size()),
      target_state_(target_->open()),
      draft_state_(draft_ ? draft_->open() : nullptr) {}

std::unique_ptr<Session> Session::fork() const {
  auto copy = std::make_unique<Session>(target_, draft_, tokens_, decoding_, options_);
  copy->prompt_length_ = prompt_length_;
  copy->round_index_ = round_index_;
  copy->tape_index_ = tape_index_;
  copy->finish_ = finish_;
  copy->target_state_ = target_state_->clone();
  if (draft_state_) copy->draft_state_ = draft_state_->clone();
  return copy;
}

Round Session::step() {
  Round round;
  round.prefill = round_index_ == 0;
  {
    const Stopwatch total(round.total_ns);
    std::fill(out_.experts_touched.begin(), out_.experts_touched.end(), uint8_t{0});
    if (round.prefill) prefill(round);
    else decode(round);
    commit(round);
  }
  for (size_t begin = 0; begin < out_.experts_touched.size(); begin += out_.experts_per_layer) {
    const auto layer = out_.experts_touched.begin() + static_cast<std::ptrdiff_t>(begin);
    round.distinct_experts.push_back(static_cast<uint32_t>(
        std::count(layer, layer + static_cast<std::ptrdiff_t>(out_.experts_per_layer), uint8_t{1})));
  }
  return round;
}

// The whole prompt in chunks; only the last row's logits are needed. Its taps are the draft's first context.
void Session::prefill(Round& round) {
  for (size_t begin = 0; begin < prompt_length_; begin += kMaxStepRows) {
    const size_t rows = std::min(kMaxStepRows, prompt_length_ - begin);
    const bool last = begin + rows == prompt_length_;
    {
      const Stopwatch verify(round.verify_ns);
      target_->step(*target_state_, std::span(tokens_).subspan(begin, rows), last ? rows - 1 : rows, out_);
    }
    if (draft_) {
      const Stopwatch drafting(round.draft_ns);
      draft_->extend(*draft_state_, out_.taps, rows);
    }
  }
  if (options_.replay) record_rows(1, round);
  round.committed = {target_token(out_.logits.data(), filters(), static_cast<uint32_t>(tokens_.size()), round)};
}

// One block: anchor and drafts through the target, accept, roll both caches back to the accepted tokens.
void Session::decode(Round& round) {
  // The last committed token of a full block lands `block` positions behind the anchor; it must still lie inside the context.
  const size_t block = std::min(options_.block_size, target_->max_context() - tokens_.size());
  const size_t start = target_state_->length();  // the anchor's place
  if (block > 1) {
    const Stopwatch drafting(round.draft_ns);
    draft_block(block, round);
  }
  {
    const Stopwatch verify(round.verify_ns);
    std::vector<int32_t> rows{tokens_.back()};
    rows.insert(rows.end(), round.drafted.begin(), round.drafted.end());
    target_->step(*target_state_, rows, 0, out_);
    // All rows, also those behind a rejected draft: whether a broken model is noticed must not hang on what was drawn.
    for (size_t i = 0; i < block; ++i) check_logits(out_.logits.data() + i * target_->vocab_size(), target_->vocab_size());
    if (options_.replay) record_rows(block, round);
    if (options_.rule == Rule::kReject && options_.block_size > 1 && !greedy()) verify_by_rejection(block, round);
    else verify_by_equality(block, round);
    target_state_->truncate(start + options_.decisions.cached(round.committed.size(), block));
  }
  if (draft_) {
    const Stopwatch drafting(round.draft_ns);
    const size_t verified = round.committed.size();  // the anchor and the drafts that passed
    options_.decisions.extend(*draft_, *draft_state_, out_.taps, block, verified);
    options_.decisions.remember(draft_rows_);
  }
}

void Session::draft_block(size_t block, Round& round) {
  draft_->propose(*draft_state_, tokens_.back(), block, draft_logits_);
  const size_t vocab = target_->vocab_size();
  draft_rows_.resize(block - 1);
  for (size_t i = 0; i + 1 < block; ++i) {
    const float* logits = draft_logits_.data() + i * vocab;
    const uint32_t position = anchor_position() + 1 + static_cast<uint32_t>(i);
    check_logits(logits, vocab);
    if (greedy() || options_.rule == Rule::kMatch) {
      round.drafted.push_back(argmax(logits, static_cast<int>(vocab)));
      continue;
    }
    processed_row(logits, vocab, filters(), draft_rows_[i]);
    const bool coupled = options_.rule == Rule::kCoupled;
    if (coupled || options_.replay) log_row(draft_rows_[i], log_p_);
    if (options_.replay) round.replay.q.push_back(log_p_);
    round.drafted.push_back(coupled ? coupled_token(position, /*draft=*/true, round)
                                    : options_.decisions.draft_token(
                                          draft_rows_[i], draw(Stream::kDraftSample, position, round_index_, round)));
  }
}

// The target's own token of a position: what plain decoding emits there.
int32_t Session::target_token(const float* logits, const Filters& filters, uint32_t position, Round& round) {
  const int vocab = static_cast<int>(target_->vocab_size());
  check_logits(logits, target_->vocab_size());
  if (greedy()) return argmax(logits, vocab);
  processed_row(logits, target_->vocab_size(), filters, p_);
  if (options_.rule == Rule::kCoupled) {
    log_row(p_, log_p_);
    return coupled_token(position, /*draft=*/false, round);
  }
  return options_.decisions.token(p_, draw(Stream::kTargetSample, position, /*round=*/0, round));
}

// Greedy, `match`, `coupled`, and plain decoding under any rule: keep drafts while they are the target's own tokens.
void Session::verify_by_equality(size_t block, Round& round) {
  Decisions& decide = options_.decisions;
  const BlockRows rows = block_rows();
  const uint32_t first = anchor_position() + 1;
  for (size_t i = 0; i < block; ++i) {
    const Place place{i, block - 1};
    if (place.bonus() || decide.examines(place)) {
      const float* logits = decide.target_logits(rows, place, round.drafted);
      const uint32_t position = decide.number_position(first + static_cast<uint32_t>(i), first);
      const int32_t token = target_token(logits, decide.target_filters(filters(), place), position, round);
      round.committed.push_back(token);
      if (place.bonus() || token != round.drafted[i]) return;
    } else {
      round.committed.push_back(round.drafted[i]);
    }
    ++round.accepted;
  }
}

void Session::verify_by_rejection(size_t block, Round& round) {
  Decisions& decide = options_.decisions;
  const BlockRows rows = block_rows();
  const uint32_t first = anchor_position() + 1;
  for (size_t i = 0; i < block; ++i) {
    const Place place{i, block - 1};
    const uint32_t position = first + static_cast<uint32_t>(i);
    const Filters asked = decide.target_filters(filters(), place);
    processed_row(decide.target_logits(rows, place, round.drafted), rows.vocab, asked, p_);
    if (place.bonus()) {  // every draft passed
      round.committed.push_back(decide.token(p_, draw(Stream::kResidualSample, position, round_index_, round)));
      return;
    }
    const std::vector<double>& q = decide.draft_row(draft_rows_, rows, place);
    const int32_t token = round.drafted[i];
    const uint32_t coin_position = decide.number_position(position, first);
    if (!decide.examines(place) ||
        decide.accepts(draw(decide.coin_stream(), coin_position, round_index_, round), q[token], p_[token])) {
      round.committed.push_back(token);
      ++round.accepted;
      continue;
    }
    if (decide.emits_correction(place)) {
      decide.residual(Refusal{token, place, p_, q, draft_rows_, rows, asked}, residual_);
      const double u = draw(decide.correction_stream(), position, round_index_, round);
      round.committed.push_back(decide.token(residual_, u));
    }
    return;
  }
}

// argmax(log_p_ + noise of the position).
int32_t Session::coupled_token(uint32_t position, bool draft, Round& round) const {
  if (options_.replay) {
    std::vector<double> u(log_p_.size());
    for (size_t token = 0; token < u.size(); ++token)
      u[token] = gumbel_uniform(decoding_.seed, position, static_cast<uint32_t>(token));
    round.replay.noise.push_back({draft, position, std::move(u)});
  }
  return coupled_pick(log_p_.data(), static_cast<int>(log_p_.size()), decoding_.seed, position);
}

double Session::draw(Stream stream, uint32_t position, uint32_t index, Round& round) {
  const std::vector<double>& tape = options_.tape;
  const double u = tape.empty() ? uniform(decoding_.seed, position, stream, index) : tape[tape_index_++ % tape.size()];
  if (options_.replay) round.replay.uniforms.push_back({stream, position, index, u});
  return u;
}

void Session::record_rows(size_t rows, Round& round) const {
  const size_t vocab = target_->vocab_size();
  std::vector<double> p, log_p;
  for (size_t i = 0; i < rows; ++i) {
    const float* logits = out_.logits.data() + i * vocab;
    if (greedy()) {
      check_logits(logits, vocab);
      log_p.assign(vocab, -std::numeric_limits<double>::infinity());
      log_p[static_cast<size_t>(argmax(logits, static_cast<int>(vocab)))] = 0.0;
    } else {
      processed_row(logits, vocab, filters(), p);
      log_row(p, log_p);
    }
    round.replay.p.push_back(log_p);
  }
}

// Cuts the round's tokens at the first stop id and at the limits, appends them, and sees whether the session ends here.
void Session::commit(Round& round) {
  const uint64_t emitted = tokens_.size() - prompt_length_;
  const uint64_t left = options_.decisions.left(decoding_.max_tokens, emitted, {round_index_, round.committed.size()});
  if (round.committed.size() > left) round.committed.resize(left);
  const auto stop = std::find_first_of(round.committed.begin(), round.committed.end(), decoding_.stop_ids.begin(),
                                       decoding_.stop_ids.end());
  if (stop != round.committed.end()) {
    if (options_.decisions.cuts_at_stop()) round.committed.erase(stop + 1, round.committed.end());
    finish_ = Finish::kStop;
  } else if (round.committed.size() == left || tokens_.size() + round.committed.size() >= target_->max_context()) {
    finish_ = Finish::kLength;
  }
  tokens_.insert(tokens_.end(), round.committed.begin(), round.committed.end());
  round.finish = finish_;
  ++round_index_;
}

}  // namespace kilotoken
