// The stack on a GPU, where there is no Node: rows against the CPU engine, bits across step sizes and launch modes, and speculative output against
// plain output, token for token. Arguments: a spec file (write-spec.mjs) and a file of prompts, one line of token ids each.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/stack.h"
#include "native/cuda/stack_source.h"
#include "native/engine/fault.h"
#include "native/engine/model.h"
#include "spec_file.h"

using namespace kilotoken;
using stack::Mode;

namespace {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<std::vector<int32_t>> read_prompts(const char* path) {
  std::ifstream file(path);
  std::vector<std::vector<int32_t>> prompts;
  for (std::string line; std::getline(file, line);) {
    std::istringstream in(line);
    std::vector<int32_t> ids;
    for (int32_t id; in >> id;) ids.push_back(id);
    if (!ids.empty()) prompts.push_back(ids);
  }
  return prompts;
}

std::vector<double> log_softmax(const float* row, size_t vocab) {
  double top = -INFINITY, mass = 0;
  for (size_t i = 0; i < vocab; ++i) top = std::max(top, static_cast<double>(row[i]));
  for (size_t i = 0; i < vocab; ++i) mass += std::exp(row[i] - top);
  std::vector<double> out(vocab);
  for (size_t i = 0; i < vocab; ++i) out[i] = row[i] - top - std::log(mass);
  return out;
}

std::vector<std::vector<double>> by_id(const std::vector<TopRow>& rows, size_t vocab) {
  std::vector<std::vector<double>> out;
  for (const TopRow& row : rows) {
    std::vector<double> p(vocab);
    for (size_t i = 0; i < row.ids.size(); ++i) p[static_cast<size_t>(row.ids[i])] = row.logprobs[i];
    out.push_back(std::move(p));
  }
  return out;
}

// Kullback-Leibler divergence, nats.
double divergence(const std::vector<double>& p, const std::vector<double>& q) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
  return sum;
}

// `exact`: the CPU engine with activations that are not rounded; `cpu`: with E4M3 activations; `mine`: the stack. E4M3 steps are 2^-3 and one flip moves
// a whole row, so two engines with other orders of sums cannot agree row by row; what is judged is that the stack lies no further from the
// unrounded rows than the reference with the same rounding does, and that top choices differ only at near ties.
void compare_rows(const char* what, const std::vector<TopRow>& exact_top, const std::vector<TopRow>& cpu_top, const float* gpu, size_t vocab) {
  const auto exact = by_id(exact_top, vocab), cpu = by_id(cpu_top, vocab);
  std::vector<double> of_cpu, of_mine, between;
  size_t same = 0, near = 0;
  const size_t rows = cpu.size();
  for (size_t r = 0; r < rows; ++r) {
    const std::vector<double> mine = log_softmax(gpu + r * vocab, vocab);
    of_cpu.push_back(divergence(exact[r], cpu[r]));
    of_mine.push_back(divergence(exact[r], mine));
    between.push_back(divergence(cpu[r], mine));
    const size_t top = static_cast<size_t>(std::max_element(mine.begin(), mine.end()) - mine.begin());
    const size_t other = static_cast<size_t>(cpu_top[r].ids[0]);
    if (top == other) ++same;
    else if (cpu[r][other] - cpu[r][top] < 2 * std::fabs(exact[r][other] - cpu[r][other]) + 2 * std::fabs(exact[r][top] - cpu[r][top])) ++near;
  }
  const auto mean = [](const std::vector<double>& x) {
    double sum = 0;
    for (const double v : x) sum += v;
    return sum / static_cast<double>(x.size());
  };
  std::printf("%s: %zu rows; divergence from unrounded activations: reference %.2e, stack %.2e; between the two %.2e; top-1 the same %zu, near ties %zu\n", what,
              rows, mean(of_cpu), mean(of_mine), mean(between), same, near);
  tally::that(same + near == rows, "%s: %zu top choices differ without a near tie", what, rows - same - near);
  tally::that(mean(of_mine) < 1.5 * mean(of_cpu) + 1e-6, "%s: the stack diverges by %g, the reference by %g", what, mean(of_mine), mean(of_cpu));
}

struct Run {
  std::vector<int32_t> tokens;
  size_t rounds = 0, accepted_tokens = 0;
  double wall = 0, device = 0;
};

Run run(stack::Stack& stack, stack::Request request, Mode mode) {
  const auto session = stack.open(request);
  Run result;
  session->run(1, mode);  // prefill
  const auto again = stack.open(request);
  const double began = seconds();
  for (const stack::StackRound& r : again->run(1, mode)) result.tokens.insert(result.tokens.end(), r.committed.begin(), r.committed.end());
  const double first = seconds();
  (void)began;
  while (!again->finished()) {
    for (const stack::StackRound& r : again->run(256, mode)) {
      result.tokens.insert(result.tokens.end(), r.committed.begin(), r.committed.end());
      ++result.rounds;
      result.accepted_tokens += r.committed.size();
      result.device += static_cast<double>(r.draft_ns + r.verify_ns) * 1e-9;
    }
  }
  result.wall = seconds() - first;
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::printf("usage: stack_check SPEC PROMPTS [tokens]\n");
    return 2;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const uint64_t max_tokens = argc > 3 ? std::stoull(argv[3]) : 200;
  try {
    ModelSpec spec = read_spec(argv[1]);
    spec.activations = Activations::kFp8;
    const auto prompts = read_prompts(argv[2]);
    const auto cpu = Model::load(spec);
    ModelSpec unrounded = spec;
    unrounded.activations = Activations::kBf16;
    const auto exact = Model::load(unrounded);
    const stack::TargetShape target = stack_target(spec.target);
    const stack::DraftShape draft = stack_draft(spec.draft);
    const auto source = checkpoint_source(spec);
    const double loading = seconds();
    const auto stack = stack::Stack::make(0, target, &draft, *source);
    std::printf("loaded in %.2f s: %.1f MB of pages, %d blocks\n", seconds() - loading, static_cast<double>(stack->weight_bytes()) / 1e6, stack->blocks());
    const size_t vocab = spec.target.vocab;

    {
      const std::vector<int32_t> ids(prompts[0].begin(), prompts[0].begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(prompts[0].size(), 60)));
      const std::vector<float> eight = stack->score(ids, 8);
      compare_rows("target rows", exact->score(ids, vocab, 8).top, cpu->score(ids, vocab, 8).top, eight.data(), vocab);
      for (const int chunk : {1, 2, 3, 5, 7}) {
        const std::vector<float> other = stack->score(ids, chunk);
        tally::that(std::memcmp(other.data(), eight.data(), eight.size() * 4) == 0, "rows of %d a step have other bits than of 8", chunk);
      }
      tally::that(std::memcmp(stack->score(ids, 8).data(), eight.data(), eight.size() * 4) == 0, "two runs differ");
    }
    {
      std::vector<TopRow> rows, exact_rows;
      std::vector<float> mine;
      for (size_t i = 0; i < std::min<size_t>(prompts.size(), 6); ++i) {
        stack::Request request;
        request.prompt = prompts[i];
        request.block_size = draft.block_size;
        request.max_tokens = 64;
        const auto session = stack->open(request);
        std::vector<int32_t> ids = prompts[i];
        const auto first = session->run(1, Mode::kOps);
        ids.push_back(first[0].committed[0]);
        session->run(1, Mode::kOps);
        const std::vector<float> logits = session->logits(true);
        for (TopRow& row : cpu->draft(ids, vocab)) rows.push_back(std::move(row));
        for (TopRow& row : exact->draft(ids, vocab)) exact_rows.push_back(std::move(row));
        mine.insert(mine.end(), logits.begin() + static_cast<std::ptrdiff_t>(vocab), logits.begin() + static_cast<std::ptrdiff_t>(vocab * draft.block_size));
      }
      compare_rows("draft rows", exact_rows, rows, mine.data(), vocab);
    }

    struct Rule {
      const char* name;
      stack::DecodeRule rule;
      double temperature, top_p;
      uint32_t top_k;
    };
    const Rule rules[] = {{"greedy", stack::DecodeRule::kMatch, 0, 1, 0},        {"match", stack::DecodeRule::kMatch, 1, 1, 0},
                          {"match, top-p, top-k", stack::DecodeRule::kMatch, 0.8, 0.9, 40}, {"coupled", stack::DecodeRule::kCoupled, 1, 1, 0},
                          {"coupled, top-p", stack::DecodeRule::kCoupled, 0.7, 0.95, 0},    {"reject", stack::DecodeRule::kReject, 1, 1, 0},
                          {"reject, top-p, top-k", stack::DecodeRule::kReject, 0.8, 0.9, 40}};
    std::printf("%-22s %9s %9s | tokens/s: %8s %8s %8s | %8s %8s %8s\n", "", "tokens", "a round", "plain", "graph", "ops", "spec", "graph", "ops");
    for (const Rule& rule : rules) {
      Run sums[6];
      size_t plain_same_as_cpu = 0, cpu_tokens = 0;
      for (size_t i = 0; i < prompts.size(); ++i) {
        stack::Request request;
        request.prompt = prompts[i];
        request.seed = 1000 + i;
        request.temperature = rule.temperature;
        request.top_p = rule.top_p;
        request.top_k = rule.top_k;
        request.rule = rule.rule;
        request.max_tokens = max_tokens;
        Run runs[6];
        const Mode modes[] = {Mode::kResident, Mode::kGraph, Mode::kOps};
        for (int m = 0; m < 6; ++m) {
          request.block_size = m < 3 ? 1 : draft.block_size;
          if (m % 3 != 0 && i >= 2) continue;
          runs[m] = run(*stack, request, modes[m % 3]);
          sums[m].wall += runs[m].wall;
          sums[m].rounds += runs[m].rounds;
          sums[m].accepted_tokens += runs[m].accepted_tokens;
          sums[m].device += runs[m].device;
          const int like = m < 3 || rule.rule != stack::DecodeRule::kReject || rule.temperature == 0 ? 0 : 3;
          tally::that(runs[m].tokens == runs[like].tokens, "%s, prompt %zu: run %d differs from run %d", rule.name, i, m, like);
        }
        if (i < 3 && rule.rule == stack::DecodeRule::kMatch) {
          Decoding decoding;
          decoding.seed = request.seed;
          decoding.temperature = rule.temperature;
          decoding.top_p = rule.top_p;
          decoding.top_k = rule.top_k;
          decoding.max_tokens = max_tokens;
          const auto session = cpu->open(prompts[i], decoding, SessionOptions{});
          std::vector<int32_t> tokens;
          while (!session->finished()) {
            const Round round = session->step();
            tokens.insert(tokens.end(), round.committed.begin(), round.committed.end());
          }
          size_t same = 0;
          while (same < std::min(tokens.size(), runs[0].tokens.size()) && tokens[same] == runs[0].tokens[same]) ++same;
          plain_same_as_cpu += same;
          cpu_tokens += tokens.size();
        }
      }
      const auto rate = [&](int m) { return sums[m].wall > 0 ? static_cast<double>(sums[m].accepted_tokens) / sums[m].wall : 0.0; };
      std::printf("%-22s %9zu %9.2f |           %8.0f %8.0f %8.0f | %8.0f %8.0f %8.0f | step %.1f us, round %.1f us", rule.name, sums[3].accepted_tokens,
                  static_cast<double>(sums[3].accepted_tokens) / static_cast<double>(std::max<size_t>(sums[3].rounds, 1)), rate(0), rate(1), rate(2), rate(3), rate(4),
                  rate(5), sums[0].device / static_cast<double>(std::max<size_t>(sums[0].rounds, 1)) * 1e6,
                  sums[3].device / static_cast<double>(std::max<size_t>(sums[3].rounds, 1)) * 1e6);
      if (cpu_tokens > 0) std::printf(" | as the CPU for %zu of %zu", plain_same_as_cpu, cpu_tokens);
      std::printf("\n");
    }
  } catch (const std::exception& error) {
    tally::that(false, "%s", error.what());
  }
  return tally::finish("stack");
}
