// The floors and the operations for a machine with a GPU and no Node: `bench_kernels [file]` writes the raw samples as JSON, the same that
// `kilotoken bench kernels` derives its figures from, and prints the medians.
#include <algorithm>
#include <cstdio>
#include <exception>

#include "floors.h"

using namespace kilotoken::bench;

namespace {

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x.size() % 2 == 1 ? x[x.size() / 2] : (x[x.size() / 2 - 1] + x[x.size() / 2]) / 2;
}

void print_hops(const char* what, const std::vector<Hop>& hops) {
  std::vector<double> each;
  for (const Hop& h : hops) each.push_back(median(h.us));
  std::printf("%-44s %7.3f us median, %.3f best, %.3f worst of %zu partners\n", what, median(each), *std::min_element(each.begin(), each.end()),
              *std::max_element(each.begin(), each.end()), each.size());
}

void print_floors(const Floors& f) {
  std::printf("%d blocks; %%globaltimer steps by %.0f ns\nread rate, TB/s (medians)   page 8 KB  16 KB  17 KB\n", f.blocks, f.clock_step_ns);
  for (size_t i = 0; i < f.reads.size(); ++i) {
    if (i % 3 == 0) std::printf("  ring %3d KB              ", f.reads[i].ring_kib);
    std::printf("  %5.3f%s", static_cast<double>(f.reads[i].bytes) / median(f.reads[i].us) / 1e6, i % 3 == 2 ? "\n" : "");
  }
  std::printf("%-44s %7.3f us\n", "grid barrier", median(f.barrier_us));
  print_hops("hop, a flag", f.flag);
  print_hops("hop, 512 bytes, then a flag", f.flagged);
  print_hops("hop, 512 bytes that are their own flags", f.carried);
  std::printf("%-44s %7.3f us\n%-44s %7.3f us\n", "launch of an empty kernel, back to back", median(f.launch_us), "node of a CUDA graph", median(f.graph_node_us));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Floors floors = measure_floors(0);
    if (argc > 1) {
      std::FILE* file = std::fopen(argv[1], "w");
      if (file == nullptr) return 2;
      std::fprintf(file, "{\"floors\":%s}\n", floors_json(floors).c_str());
      std::fclose(file);
    }
    print_floors(floors);
  } catch (const std::exception& error) {
    std::printf("FAILED: %s\n", error.what());
    return 1;
  }
  return 0;
}
