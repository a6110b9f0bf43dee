// The floors, the operations and a layer for a machine with a GPU and no Node: `bench_kernels [file]` prints the medians and writes the raw samples as JSON, the
// same that `kilotoken bench kernels` derives its figures from. Exit codes as the command line's.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>

#include "floors.h"
#include "kernels/stack.h"
#include "layers.h"
#include "operations.h"

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

double mean(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += v;
  return sum / static_cast<double>(x.size());
}

double ceiling(const Floors& f) {
  double best = 0;
  for (const ReadRate& r : f.reads) best = std::max(best, static_cast<double>(r.bytes) / median(r.us));
  return best;
}

// One line an operation and case: time and share of the ceiling of either arrangement.
void print_operations(const std::vector<Operation>& operations, double best) {
  std::printf("operation    weights  m experts      MB   stream us  share    chain us  share   off by\n");
  for (size_t i = 0; i + 1 < operations.size(); i += 2) {
    const Operation &a = operations[i], &b = operations[i + 1];
    const double x = median(a.span_us) / a.calls, y = median(b.span_us) / b.calls, bytes = static_cast<double>(a.bytes);
    std::printf("%-12s %-6s  %2d %7d  %6.1f  %8.2f  %5.1f %%  %8.2f  %5.1f %%  %.1e%s\n", a.op.c_str(), a.weights.c_str(), a.live_rows, a.experts, bytes / 1e6, x,
                bytes / x / best * 100, y, bytes / y / best * 100, a.error, a.choice == "within" ? "  (stream: choice within)" : "");
  }
}

void print_layers(const Layers& layers, double best) {
  std::printf("a layer      m experts      MB        us   times its bytes\n");
  for (const LayerTimes& t : layers.times) {
    const double us = (median(t.many_us) - median(t.few_us)) / (kManyLayers - kFewLayers);
    const double bytes = static_cast<double>(layers.linear_bytes) + mean(t.experts) * static_cast<double>(layers.expert_bytes);
    std::printf("            %2d %7.1f  %6.1f  %8.1f   %.2f\n", t.rows, mean(t.experts), bytes / 1e6, us, us * best / bytes);
  }
}

// What has been measured so far; a stage that did not come to its end is null.
bool write(const char* path, const std::string& floors, const std::string& operations, const std::string& layers) {
  std::FILE* file = std::fopen(path, "w");
  if (file == nullptr) return false;
  std::fprintf(file, "{\"floors\":%s,\"operations\":%s,\"layers\":%s}\n", floors.c_str(), operations.c_str(), layers.c_str());
  return std::fclose(file) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::string floors_text = "null", operations_text = "null", layers_text = "null";
  const auto keep = [&] {
    if (argc > 1 && !write(argv[1], floors_text, operations_text, layers_text)) throw std::runtime_error(std::string(argv[1]) + " cannot be written");
  };
  try {
    const Floors floors = measure_floors(0);
    print_floors(floors);
    floors_text = floors_json(floors);
    keep();
    const std::vector<Operation> operations = measure_operations(0);
    print_operations(operations, ceiling(floors));
    operations_text = operations_json(operations);
    keep();
    const Layers layers = measure_layers(0);
    print_layers(layers, ceiling(floors));
    layers_text = layers_json(layers);
    keep();
  } catch (const kilotoken::stack::KernelFault& fault) {
    std::fprintf(stderr, "error: %s\n", fault.what());
    return 70;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 3;
  }
  return 0;
}
