// A pro-synthetic model on several GPUs of one host, each with its part: plain and speculative rounds under all three ways of launching, the same tokens from
// each and from a second run, and how long steps take. Arguments: GPUs layers [tokens] [context] [one-hop] [fp8]; fp8: experts as E4M3. One GPU holds the
// whole.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "decode_runs.h"
#include "kernels/synthetic/source.h"
#include "no_gpu.h"

using namespace kilotoken;
using namespace kilotoken::stack;

namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (tally::no_gpu()) return 3;
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
    Request request = request_of(vocab, tokens);
    const std::vector<int32_t> expected = decode_runs(*stack, request, vocab, {Mode::kResident, Mode::kResident, Mode::kGraph, Mode::kOps});
    std::printf("tokens:");
    for (size_t i = 0; i < std::min<size_t>(expected.size(), 12); ++i) std::printf(" %d", expected[i]);
    std::printf("\n");
    const size_t distinct = [&] {
      std::vector<int32_t> sorted = expected;
      std::sort(sorted.begin(), sorted.end());
      return static_cast<size_t>(std::unique(sorted.begin(), sorted.end()) - sorted.begin());
    }();
    tally::that(distinct * 4 > expected.size(), "only %zu distinct tokens of %zu", distinct, expected.size());
    check_rows(*stack, request, expected, 24, vocab, {8});
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
