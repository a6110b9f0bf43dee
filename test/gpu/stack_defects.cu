// Every known mistake of the device code (kernels/defects.h) on nano: which checks notice it. A mistake that nobody notices is a hole in the tests. One mistake a
// process, since some end the GPU's context. Needs a kernel built with KILOTOKEN_GPU_DEFECTS.
//   stack_defects list
//   stack_defects SPEC PROMPTS ID    exits with 0 if some check notices the mistake; ID "none": if no check notices anything
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/defects.h"
#include "kernels/stack.h"
#include "native/cuda/stack_source.h"
#include "native/engine/model.h"
#include "reference/cpu/sampling.h"
#include "spec_file.h"
#include "stack_ops/rig.h"

using namespace kilotoken;
using stack::Mode;

namespace {

const std::map<std::string, void (*)()>& operations() {
  static const std::map<std::string, void (*)()> all = {{"window", ops::test_window}, {"attend", ops::test_attend},      {"qkv", ops::test_qkv},       {"up", ops::test_experts_up},
                                                        {"down", ops::test_experts_down}, {"topk", ops::test_topk},    {"swiglu", ops::test_swiglu}, {"accept", ops::test_accept},
                                                        {"pick", ops::test_picks}};
  return all;
}

struct Noticed {
  std::vector<std::string> by;
  void note(const char* check, size_t count, const char* of) {
    if (count == 0) return;
    by.push_back(std::string(check) + " (" + std::to_string(count) + " " + of + ")");
  }
};

std::vector<std::vector<int32_t>> read_prompts(const char* path) {
  std::ifstream file(path);
  std::vector<std::vector<int32_t>> prompts;
  for (std::string line; std::getline(file, line);) {
    std::istringstream in(line);
    std::vector<int32_t> ids;
    for (int32_t id; in >> id;) ids.push_back(id);
    if (ids.size() > 40) prompts.push_back(ids);
  }
  return prompts;
}

// Mean Kullback-Leibler divergence, nats, of rows of logits from rows of the CPU engine.
double divergence(const std::vector<TopRow>& rows, const float* logits, size_t vocab) {
  double sum = 0;
  std::vector<double> mine;
  for (size_t r = 0; r < rows.size(); ++r) {
    log_softmax(logits + r * vocab, vocab, mine);
    for (size_t i = 0; i < rows[r].ids.size(); ++i) sum += std::exp(rows[r].logprobs[i]) * (rows[r].logprobs[i] - mine[static_cast<size_t>(rows[r].ids[i])]);
  }
  return sum / static_cast<double>(rows.size());
}
double divergence(const std::vector<TopRow>& rows, const std::vector<TopRow>& others, size_t vocab) {
  std::vector<float> logits(rows.size() * vocab);
  for (size_t r = 0; r < others.size(); ++r)
    for (size_t i = 0; i < others[r].ids.size(); ++i) logits[r * vocab + static_cast<size_t>(others[r].ids[i])] = static_cast<float>(others[r].logprobs[i]);
  return divergence(rows, logits.data(), vocab);
}

class Nano {
 public:
  Nano(const char* spec_path, const char* prompts_path) : spec_(read_spec(spec_path)), prompts_(read_prompts(prompts_path)), vocab_(spec_.target.vocab) {
    spec_.activations = Activations::kFp8;
    cpu_ = Model::load(spec_);
    ModelSpec unrounded = spec_;
    unrounded.activations = Activations::kBf16;
    exact_ = Model::load(unrounded);
    const stack::TargetShape target = stack_target(spec_.target);
    draft_ = stack_draft(spec_.draft);
    const auto source = checkpoint_source(spec_);
    stack_ = stack::Stack::make(0, target, &draft_, *source);
    for (const auto& prompt : prompts_) text_.insert(text_.end(), prompt.begin(), prompt.end());
    text_.resize(std::min<size_t>(text_.size(), 200));  // longer than a window
  }

  // Rows of a step have the same bits whatever stands beside them.
  void rows(Noticed& noticed) const {
    const std::vector<float> eight = stack_->score(text_, 8);
    size_t other = 0;
    for (const int chunk : {1, 3}) {
      const std::vector<float> some = stack_->score(text_, chunk);
      for (size_t r = 0; r < text_.size(); ++r) other += std::memcmp(some.data() + r * vocab_, eight.data() + r * vocab_, vocab_ * sizeof(float)) != 0;
    }
    noticed.note("rows alone", other, "rows with other bits");
    // No further from unrounded activations than half as much again as the reference with rounded ones.
    const auto exact = exact_->score(text_, vocab_, 8).top, rounded = cpu_->score(text_, vocab_, 8).top;
    const double mine = divergence(exact, eight.data(), vocab_), reference = divergence(exact, rounded, vocab_);
    std::printf("    target: divergence from unrounded activations %.2e, reference %.2e\n", mine, reference);
    noticed.note("CPU reference", !(mine < 1.5 * reference + 1e-6), "mean divergence of target rows");
  }

  void draft_rows(Noticed& noticed) const {
    std::vector<TopRow> exact, rounded;
    std::vector<float> mine;
    for (size_t i = 0; i < std::min<size_t>(prompts_.size(), 4); ++i) {
      const auto session = stack_->open(request(i, 16, draft_.block_size));
      std::vector<int32_t> ids = prompts_[i];
      ids.push_back(session->run(1, Mode::kOps).at(0).committed.at(0));
      session->run(1, Mode::kOps);
      const std::vector<float> logits = session->logits(true);
      for (TopRow& row : exact_->draft(ids, vocab_)) exact.push_back(std::move(row));
      for (TopRow& row : cpu_->draft(ids, vocab_)) rounded.push_back(std::move(row));
      mine.insert(mine.end(), logits.begin() + static_cast<std::ptrdiff_t>(vocab_), logits.begin() + static_cast<std::ptrdiff_t>(vocab_ * draft_.block_size));
    }
    const double of_mine = divergence(exact, mine.data(), vocab_), reference = divergence(exact, rounded, vocab_);
    std::printf("    draft: divergence from unrounded activations %.2e, reference %.2e\n", of_mine, reference);
    noticed.note("CPU reference", !(of_mine < 1.5 * reference + 1e-6), "mean divergence of draft rows");
  }

  // Speculative tokens are plain tokens; the resident kernel makes those of one launch an instruction.
  void tokens(Noticed& noticed) const {
    struct Rule {
      const char* name;
      stack::DecodeRule rule;
      double temperature;
    };
    for (const Rule& rule : {Rule{"greedy", stack::DecodeRule::kMatch, 0}, Rule{"match", stack::DecodeRule::kMatch, 1}, Rule{"coupled", stack::DecodeRule::kCoupled, 1}}) {
      size_t other = 0, other_mode = 0;
      for (size_t i = 0; i < std::min<size_t>(prompts_.size(), 4); ++i) {
        stack::Request plain = request(i, 120, 1), speculative = request(i, 120, draft_.block_size);
        plain.rule = speculative.rule = rule.rule;
        plain.temperature = speculative.temperature = rule.temperature;
        const std::vector<int32_t> expected = decode(plain, Mode::kResident), got = decode(speculative, Mode::kResident);
        other += got != expected;
        if (i < 2) other_mode += decode(speculative, Mode::kOps) != got || decode(plain, Mode::kOps) != expected;
      }
      noticed.note((std::string("speculative = plain, ") + rule.name).c_str(), other, "prompts");
      noticed.note((std::string("resident = by instruction, ") + rule.name).c_str(), other_mode, "prompts");
    }
  }

  // The GPU's own rows and the seed's numbers decide again, on the host.
  void draws(Noticed& noticed) const {
    size_t other_token = 0, other_count = 0;
    for (size_t i = 0; i < std::min<size_t>(prompts_.size(), 3); ++i) {
      stack::Request asked = request(i, 40, 1);
      asked.temperature = 1;
      auto session = stack_->open(asked);
      std::vector<double> p, q;
      for (size_t position = prompts_[i].size(); !session->finished(); ++position) {
        const auto round = session->run(1, Mode::kOps).at(0);
        const std::vector<float> logits = session->logits(false);
        const size_t row = round.prefill ? (prompts_[i].size() - 1) % 8 : 0;
        processed_row(logits.data() + row * vocab_, vocab_, Filters{1, 1, 0}, p);
        other_token += round.committed.at(0) != draw(p, uniform(asked.seed, static_cast<uint32_t>(position), kilotoken::Stream::kTargetSample, 0));
      }
      asked = request(i, 80, draft_.block_size);
      asked.temperature = 1;
      asked.rule = stack::DecodeRule::kReject;
      session = stack_->open(asked);
      size_t length = prompts_[i].size();
      for (uint32_t index = 0; !session->finished(); ++index) {
        const auto round = session->run(1, Mode::kOps).at(0);
        if (!round.prefill) {
          const std::vector<float> target = session->logits(false), draft = session->logits(true);
          size_t accepted = 0;
          for (; accepted < round.drafted.size(); ++accepted) {
            processed_row(target.data() + accepted * vocab_, vocab_, Filters{1, 1, 0}, p);
            processed_row(draft.data() + (accepted + 1) * vocab_, vocab_, Filters{1, 1, 0}, q);
            const auto token = static_cast<size_t>(round.drafted[accepted]);
            if (!(uniform(asked.seed, static_cast<uint32_t>(length + accepted), kilotoken::Stream::kAcceptCoin, index) * q[token] < p[token])) break;
          }
          other_count += accepted != round.accepted;
        }
        length += round.committed.size();
      }
    }
    noticed.note("draws from its own rows", other_token, "tokens");
    noticed.note("acceptance from its own rows", other_count, "rounds");
  }

 private:
  stack::Request request(size_t prompt, uint64_t tokens, int block) const {
    stack::Request r;
    r.prompt = prompts_[prompt];
    r.seed = 500 + prompt;
    r.max_tokens = tokens;
    r.block_size = block;
    return r;
  }
  std::vector<int32_t> decode(const stack::Request& asked, Mode mode) const {
    std::vector<int32_t> tokens;
    const auto session = stack_->open(asked);
    while (!session->finished())
      for (const stack::StackRound& round : session->run(256, mode)) tokens.insert(tokens.end(), round.committed.begin(), round.committed.end());
    return tokens;
  }
  static int32_t draw(const std::vector<double>& p, double u) {
    double cumulative = 0;
    for (size_t t = 0; t < p.size(); ++t) {
      cumulative += p[t];
      if (p[t] > 0 && cumulative > u) return static_cast<int32_t>(t);
    }
    return -1;
  }

  ModelSpec spec_;
  std::vector<std::vector<int32_t>> prompts_;
  std::vector<int32_t> text_;
  size_t vocab_;
  std::shared_ptr<const Model> cpu_, exact_;
  stack::DraftShape draft_;
  std::shared_ptr<stack::Stack> stack_;
};

void operation(const char* name, Noticed& noticed) {
  constexpr int kPrinted = 1000;  // findings beyond the first are not printed
  tally::findings = kPrinted;
  ops::generator.seed(20261121);
  operations().at(name)();
  noticed.note("operation alone", static_cast<size_t>(tally::findings - kPrinted), name);
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc == 2 && std::string(argv[1]) == "list") {
    std::printf("none\n");
    for (const stack::DefectEntry& entry : stack::kDefects) std::printf("%s\n", entry.id);
    return 0;
  }
  if (argc != 4) {
    std::printf("usage: stack_defects list | stack_defects SPEC PROMPTS ID\n");
    return 2;
  }
  const std::string id = argv[3];
  const auto entry = std::find_if(stack::kDefects.begin(), stack::kDefects.end(), [&](const stack::DefectEntry& e) { return id == e.id; });
  const bool control = id == "none";
  if (!control && entry == stack::kDefects.end()) {
    std::printf("no such defect: %s\n", id.c_str());
    return 2;
  }
  Noticed noticed;
  try {
    const Nano nano(argv[1], argv[2]);  // packed before the defect is there
    ops::small = true;
    ops::broken = "-";  // no lines of numbers
    if (!control) stack::check(stack::set_defect(entry->defect), "setting the defect");
    nano.rows(noticed);
    nano.draft_rows(noticed);
    nano.tokens(noticed);
    nano.draws(noticed);
    for (const auto& [name, test] : operations())
      if (control || (entry->operation != nullptr && name == entry->operation)) operation(name.c_str(), noticed);
  } catch (const stack::KernelFault& fault) {
    noticed.by.push_back(std::string("the kernel itself: ") + fault.what());
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 3;
  }
  std::string by;
  for (const std::string& one : noticed.by) by += (by.empty() ? "" : "; ") + one;
  std::printf("%s %s: %s\n", noticed.by.empty() == control ? "ok    " : "FAILED", control ? "no defect" : entry->title, by.empty() ? "noticed by nobody" : by.c_str());
  return noticed.by.empty() == control ? 0 : 1;
}
