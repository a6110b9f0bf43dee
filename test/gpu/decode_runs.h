// What the programs that time a pro-synthetic model share: a prompt, the plain continuation, the same tokens by speculation under each way of launching, and
// rows alone against rows in company. Weights are synthetic and the acceptance of the speculative rounds is assumed. Findings go to check.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <random>
#include <vector>

#include "check.h"
#include "kernels/stack.h"

namespace kilotoken::stack {

inline double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x.empty() ? 0 : x[x.size() / 2];
}

inline const char* name_of(Mode mode) { return mode == Mode::kResident ? "resident" : mode == Mode::kGraph ? "graph" : "ops"; }

// A greedy request of 24 tokens that mean nothing.
inline Request request_of(int vocab, uint64_t tokens) {
  Request request;
  for (int i = 0; i < 24; ++i) request.prompt.push_back(i * 7919 % vocab);
  request.max_tokens = tokens;
  return request;
}

// Decodes plainly and in blocks of 8 under each of `modes`, prints a line a run (medians of a round, us; the first two rounds are left out), and holds every
// run against the first. Returns the plain continuation; `request` is left with the proposals of the speculative runs.
inline std::vector<int32_t> decode_runs(Stack& stack, Request& request, int vocab, std::initializer_list<Mode> modes) {
  std::vector<int32_t> expected;
  std::mt19937 coin(7);
  for (const int block : {1, 8}) {
    if (block == 8) {
      // The plain continuation, each token wrong with a chance that gives an acceptance near 6.3 of 8.
      request.proposals = request.prompt;
      for (const int32_t id : expected) request.proposals.push_back(coin() % 1000 < 930 ? id : (id + 1 + static_cast<int32_t>(coin() % 1000)) % vocab);
    }
    for (const Mode mode : modes) {
      request.block_size = block;
      const auto session = stack.open(request);
      std::vector<int32_t> out;
      std::vector<double> draft_us, verify_us, experts;
      size_t rounds = 0;
      while (!session->finished()) {
        for (const StackRound& r : session->run(64, mode)) {
          out.insert(out.end(), r.committed.begin(), r.committed.end());
          if (rounds++ < 2) continue;
          draft_us.push_back(static_cast<double>(r.draft_ns) / 1e3);
          verify_us.push_back(static_cast<double>(r.verify_ns) / 1e3);
          double sum = 0;
          for (const uint32_t n : r.distinct_experts) sum += n;
          experts.push_back(sum / static_cast<double>(std::max<size_t>(r.distinct_experts.size(), 1)));
        }
      }
      if (expected.empty()) expected = out;
      size_t same = 0;
      while (same < std::min(out.size(), expected.size()) && out[same] == expected[same]) ++same;
      tally::that(out == expected, "block %d: other tokens than plain decoding, from token %zu of %zu", block, same, expected.size());
      std::printf("block %d %-9s %4zu rounds, %.2f tokens a round, draft %7.1f us, verify %7.1f us, %.1f experts a layer\n", block, name_of(mode), rounds,
                  static_cast<double>(out.size()) / static_cast<double>(rounds), median(draft_us), median(verify_us), median(experts));
    }
  }
  return expected;
}

// Rows of logits [ids][vocab] of the prompt and the first `behind` tokens after it, in steps of each of `chunks`, against the same rows alone: equal in every bit.
inline void check_rows(Stack& stack, const Request& request, const std::vector<int32_t>& after, size_t behind, int vocab, std::initializer_list<int> chunks) {
  std::vector<int32_t> ids = request.prompt;
  ids.insert(ids.end(), after.begin(), after.begin() + static_cast<std::ptrdiff_t>(std::min(after.size(), behind)));
  const std::vector<float> alone = stack.score(ids, 1);
  const size_t row = static_cast<size_t>(vocab);
  for (const int chunk : chunks) {
    const std::vector<float> other = stack.score(ids, chunk);
    size_t rows = 0, first = ids.size();
    for (size_t r = 0; r < ids.size(); ++r) {
      if (std::memcmp(other.data() + r * row, alone.data() + r * row, row * sizeof(float)) == 0) continue;
      ++rows;
      first = std::min(first, r);
    }
    tally::that(rows == 0, "%zu of %zu rows have other bits in steps of %d than alone, first row %zu", rows, ids.size(), chunk, first);
  }
}

}  // namespace kilotoken::stack
