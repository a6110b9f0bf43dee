// The all-reduce alone for a machine with GPUs and no Node: `bench_collectives [gpus [file]]` checks, times, prints medians, and writes the raw samples as JSON, the
// same that `kilotoken bench node --only collectives` derives its figures from. Default: all GPUs, 8 at most. Exit codes as the command line's.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>

#include "collectives.h"
#include "kernels/stack.h"
#include "reference/fp8/device.h"

using namespace kilotoken::bench;

namespace {

struct Summary {
  double median = 0, p5 = 0, p95 = 0, slowest = 0;
};

double quantile(std::vector<double> sorted, double p) {
  std::sort(sorted.begin(), sorted.end());
  return sorted[static_cast<size_t>(p * static_cast<double>(sorted.size() - 1) + 0.5)];
}

// Microseconds of one rank's calls, all launches together; cycles by what they lasted on %globaltimer.
void add_us(const CollectiveLaunch& launch, std::vector<double>& us) {
  double cycles = 0;
  for (const uint32_t each : launch.cycles) cycles += each;
  for (const uint32_t each : launch.cycles) us.push_back(each * (static_cast<double>(launch.span_ns) / cycles) / 1e3);
}

// The rank with the longest median stands for all.
using Key = std::tuple<std::string, std::string, int>;
std::map<Key, Summary> summaries(const Collectives& c) {
  std::map<std::tuple<Key, int>, std::pair<std::vector<double>, double>> by_rank;
  for (const CollectiveLaunch& l : c.launches) {
    auto& [us, slowest] = by_rank[{{l.how, l.arrangement, l.rows}, l.rank}];
    add_us(l, us);
    slowest = std::max(slowest, static_cast<double>(l.slowest_ns) / 1e3 / static_cast<double>(l.cycles.size()));
  }
  std::map<Key, Summary> out;
  for (const auto& [key, samples] : by_rank) {
    Summary& of = out[std::get<0>(key)];
    const double median = quantile(samples.first, 0.5);
    of.slowest = std::max(of.slowest, samples.second);
    if (median > of.median) of = {median, quantile(samples.first, 0.05), quantile(samples.first, 0.95), of.slowest};
  }
  return out;
}

void print(const Collectives& c) {
  std::printf("%d x %s, rows of %d binary32 values; sums in the order of ranks, every rank and launch compared bit for bit\n", c.gpus, c.gpu.c_str(), kCollectiveHidden);
  for (const PlantedMistake& p : c.planted) std::printf("made on purpose: %s, %s: seen at %d of %d places\n", p.how.c_str(), p.mistake.c_str(), p.seen, p.values);
  for (const std::string& text : c.wrong) std::printf("WRONG: %s\n", text.c_str());
  if (!c.wrong.empty()) return;
  const auto all = summaries(c);
  std::printf("us a call, slowest rank          rows   median      p5     p95  slowest block, mean\n");
  for (const auto& [key, s] : all) {
    const auto& [how, arrangement, rows] = key;
    std::printf("%-10s %-10s            %3d   %6.3f  %6.3f  %6.3f  %6.3f\n", how.c_str(), arrangement.c_str(), rows, s.median, s.p5, s.p95, s.slowest);
  }
  const double barrier = all.at({"none", "barrier", kCollectiveRows}).median;
  for (const char* how : {"one-hop", "two-hops"})
    std::printf("%-10s exposed, 8 rows: %.3f us (step less barrier %.3f, chain %.3f; the longer)\n", how,
                std::max(all.at({how, "step", kCollectiveRows}).median - barrier, all.at({how, "chain", kCollectiveRows}).median),
                all.at({how, "step", kCollectiveRows}).median - barrier, all.at({how, "chain", kCollectiveRows}).median);
  std::map<std::string, double> nccl;
  for (const NcclTimes& t : c.nccl.times) nccl[t.how] = std::max(nccl[t.how], quantile(t.us, 0.5));
  for (const auto& [how, us] : nccl) std::printf("NCCL %s, %-5s                  8   %6.3f  (batches of %d)\n", c.nccl.version.c_str(), how.c_str(), us, c.nccl.batch);
  if (!c.nccl.lack.empty()) std::printf("NCCL was not measured: %s\n", c.nccl.lack.c_str());
  if (!c.nccl.graph_lack.empty()) std::printf("NCCL as a graph was not measured: %s\n", c.nccl.graph_lack.c_str());
}

void write(const char* path, const std::string& text) {
  std::FILE* file = std::fopen(path, "w");
  if (file == nullptr || std::fputs(text.c_str(), file) < 0 || std::fputc('\n', file) == EOF || std::fclose(file) != 0)
    throw std::runtime_error(std::string(path) + " cannot be written");
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  int gpus = 0;
  if (argc > 1) {
    char* end = nullptr;
    gpus = static_cast<int>(std::strtol(argv[1], &end, 10));
    if (end == argv[1] || *end != '\0' || gpus < 2 || gpus > 8 || argc > 3) {
      std::fprintf(stderr, "usage: bench_collectives [gpus, 2 to 8 [file]]\n");
      return 2;
    }
  }
  try {
    kilotoken::fp8::require_device(0);
    const Collectives collectives = measure_collectives(gpus);
    print(collectives);
    if (argc > 2) write(argv[2], collectives_json(collectives));
    if (!sound(collectives)) {
      std::fprintf(stderr, "error: %s\n", collectives.wrong.empty() ? "the comparison of sums does not see a mistake made on purpose: it proves nothing"
                                                                    : "sums of the all-reduce are not those in the order of ranks");
      return 70;
    }
  } catch (const kilotoken::stack::KernelFault& fault) {
    std::fprintf(stderr, "error: %s\n", fault.what());
    return 70;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 3;
  }
  return 0;
}
