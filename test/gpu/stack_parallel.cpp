// A pro-synthetic model on several GPUs of one host, each with its part: plain and speculative rounds under all three ways of launching, the same tokens from
// each and from a second run, and how long steps take. Arguments: GPUs layers [tokens] [context] [one-hop] [fp8]; fp8: experts as E4M3. One GPU holds the
// whole.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/stack.h"
#include "kernels/synthetic/source.h"

using namespace kilotoken;
using namespace kilotoken::stack;

namespace {

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x.empty() ? 0 : x[x.size() / 2];
}

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const uint32_t gpus = argc > 1 ? std::stoul(argv[1]) : 2;
  SyntheticShape shape;
  if (argc > 1 && std::strcmp(argv[argc - 1], "fp8") == 0) shape.fp8_experts = true, --argc;
  shape.layers = argc > 2 ? std::stoul(argv[2]) : 8;
  const uint64_t tokens = argc > 3 ? std::stoull(argv[3]) : 200;
  const int context = argc > 4 ? std::stoi(argv[4]) : 1024;
  const bool one_hop = argc > 5 && std::strcmp(argv[5], "one-hop") == 0;
  try {
    std::vector<std::unique_ptr<WeightSource>> sources;
    std::vector<DraftShape> drafts;
    std::vector<Rank> ranks;
    for (uint32_t r = 0; r < gpus; ++r) drafts.push_back(synthetic_draft_part(shape, {r, gpus}));
    for (uint32_t r = 0; r < gpus; ++r) {
      sources.push_back(synthetic_source_part(1, shape, {r, gpus}));
      ranks.push_back({static_cast<int>(r), synthetic_target_part(shape, {r, gpus}, context), &drafts[r], sources.back().get()});
    }
    const double began = seconds();
    const auto stack = Stack::make_parallel(ranks, 0, one_hop);
    std::printf("%u layers, experts %s, on %u GPUs, sums in %s: %.2f GB of pages each, loaded in %.1f s\n", shape.layers, shape.fp8_experts ? "E4M3" : "MXFP4", gpus, one_hop ? "one hop" : "two hops",
                static_cast<double>(stack->weight_bytes()) / 1e9, seconds() - began);
    const int vocab = ranks[0].target.vocab;
    Request request;
    for (int i = 0; i < 24; ++i) request.prompt.push_back(i * 7919 % vocab);
    request.max_tokens = tokens;
    std::vector<int32_t> expected;
    std::mt19937 coin(7);
    for (const int block : {1, 8}) {
      if (block == 8) {
        // The plain continuation, each token wrong with a chance that gives an acceptance near 6.3 of 8.
        request.proposals = request.prompt;
        for (const int32_t id : expected) request.proposals.push_back(coin() % 1000 < 930 ? id : (id + 1 + static_cast<int32_t>(coin() % 1000)) % vocab);
      }
      for (const Mode mode : {Mode::kResident, Mode::kResident, Mode::kGraph, Mode::kOps}) {
        request.block_size = block;
        const auto session = stack->open(request);
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
        std::printf("block %d %-9s %4zu rounds, %.2f tokens a round, draft %7.1f us, verify %7.1f us, %.1f experts a layer\n", block,
                    mode == Mode::kResident ? "resident" : mode == Mode::kGraph ? "graph" : "ops", rounds,
                    static_cast<double>(out.size()) / static_cast<double>(rounds), median(draft_us), median(verify_us), median(experts));
      }
    }
    std::printf("tokens:");
    for (size_t i = 0; i < std::min<size_t>(expected.size(), 12); ++i) std::printf(" %d", expected[i]);
    std::printf("\n");
    const size_t distinct = [&] {
      std::vector<int32_t> sorted = expected;
      std::sort(sorted.begin(), sorted.end());
      return static_cast<size_t>(std::unique(sorted.begin(), sorted.end()) - sorted.begin());
    }();
    tally::that(distinct * 4 > expected.size(), "only %zu distinct tokens of %zu", distinct, expected.size());
    // Rows alone and in company.
    {
      std::vector<int32_t> ids = request.prompt;
      ids.insert(ids.end(), expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(expected.size(), 24)));
      const std::vector<float> alone = stack->score(ids, 1), eight = stack->score(ids, 8);
      size_t rows = 0;
      for (size_t r = 0; r < ids.size(); ++r)
        rows += std::memcmp(eight.data() + r * vocab, alone.data() + r * vocab, static_cast<size_t>(vocab) * 4) != 0;
      tally::that(rows == 0, "%zu of %zu rows have other bits in steps of 8 than alone", rows, ids.size());
    }
    request.block_size = 8;
    const auto session = stack->open(request);
    session->trace();
    session->run(20, Mode::kResident);
    const std::vector<TraceEntry> trace = session->trace();
    std::map<std::string, std::vector<double>> whole;
    for (size_t i = 0; i + 1 < trace.size(); ++i) whole[trace[i].op].push_back(static_cast<double>(trace[i + 1].began - trace[i].began));
    std::printf("cycles of block 0 from an instruction's inputs to the next one's: median, sum\n");
    for (const auto& [op, cycles] : whole) {
      double sum = 0;
      for (const double c : cycles) sum += c;
      std::printf("  %-13s x %3zu  %8.0f %10.0f\n", op.c_str(), cycles.size(), median(cycles), sum);
    }
  } catch (const std::exception& error) {
    tally::that(false, "%s", error.what());
  }
  return tally::finish("stack parallel");
}
