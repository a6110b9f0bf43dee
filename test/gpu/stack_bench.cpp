// Step times of a pro-synthetic slice on one GPU, as one rank of `of` sees it: plain and speculative rounds inside one launch, the
// same instructions as a CUDA graph, and where the cycles of a layer go. Arguments: layers of [tokens] [context] [filled]
// [fp8]; filled: so many positions before the prompt hold keys and values made by a formula; fp8: experts as E4M3.
#include <algorithm>
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

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (tally::no_gpu()) return 3;
  SyntheticShape shape;
  if (argc > 1 && std::strcmp(argv[argc - 1], "fp8") == 0) shape.fp8_experts = true, --argc;
  shape.layers = argc > 1 ? std::stoul(argv[1]) : 8;
  SyntheticShard shard{0, argc > 2 ? static_cast<uint32_t>(std::stoul(argv[2])) : 8};
  const uint64_t tokens = argc > 3 ? std::stoull(argv[3]) : 200;
  const int context = argc > 4 ? std::stoi(argv[4]) : 1024;
  try {
    const auto source = synthetic_source(1, shape, shard);
    const TargetShape target = synthetic_target(shape, shard, context);
    const DraftShape draft = synthetic_draft(shape, shard);
    const auto stack = Stack::make(0, target, &draft, *source);
    std::printf("%u layers, experts %s, rank 0 of %u: %.2f GB of pages, %d blocks\n", shape.layers, shape.fp8_experts ? "E4M3" : "MXFP4", shard.of, static_cast<double>(stack->weight_bytes()) / 1e9, stack->blocks());
    Request request = request_of(target.vocab, tokens);
    request.filled_context = argc > 5 ? std::stoi(argv[5]) : 0;
    const std::vector<int32_t> expected = decode_runs(*stack, request, target.vocab, {Mode::kResident, Mode::kGraph, Mode::kOps});
    check_rows(*stack, request, expected, 100, target.vocab, {1, 2, 3, 8});
    request.block_size = 8;
    const auto session = stack->open(request);
    session->trace();
    session->run(20, Mode::kResident);
    const std::vector<TraceEntry> trace = session->trace();
    // From an instruction's inputs to the next one's: work of the median and of the slowest block, and the way to the next.
    std::map<std::string, std::vector<double>> slowest, whole;
    const auto most = [](const std::vector<long long>& x) { return static_cast<double>(*std::max_element(x.begin(), x.end())); };
    for (size_t i = 0; i + 1 < trace.size(); ++i) {
      slowest[trace[i].op].push_back(most(trace[i].done));
      whole[trace[i].op].push_back(static_cast<double>(trace[i + 1].began - trace[i].began));
    }
    std::printf("cycles a round: slowest block | until the next begins: median, sum\n");
    for (const auto& [op, cycles] : whole) {
      double sum = 0;
      for (const double c : cycles) sum += c;
      std::printf("  %-13s x %3zu  %8.0f | %8.0f %10.0f\n", op.c_str(), cycles.size(), median(slowest[op]), median(cycles), sum);
    }
    size_t at = 0, seen = 0;
    for (size_t i = 0; i < trace.size() && seen < 3; ++i)
      if (std::strcmp(trace[i].op, "experts up") == 0) at = i, ++seen;
    std::printf("around a mixture layer: math of block 0, median, slowest; stored by the slowest; next begins; ns from the first block's begin to the last's\n");
    for (size_t i = at > 13 ? at - 13 : 0; i < std::min(at + 5, trace.size() - 1); ++i) {
      std::vector<double> math(trace[i].math.begin(), trace[i].math.end());
      const auto& ns = trace[i].began_ns;
      std::printf("  %-13s %7lld %7.0f %7.0f  %7.0f  %7lld  %5lld\n", trace[i].op, trace[i].math[0], median(math), most(trace[i].math), most(trace[i].done),
                  trace[i + 1].began - trace[i].began, *std::max_element(ns.begin(), ns.end()) - *std::min_element(ns.begin(), ns.end()));
    }
  } catch (const std::exception& error) {
    tally::that(false, "%s", error.what());
  }
  return tally::finish("stack bench");
}
