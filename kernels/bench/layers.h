// What a layer of one rank of eight costs inside whole rounds of the resident kernel: slices of the 1.02 T shape with synthetic weights, once with
// few and once with more layers. The difference is what the layers between them take, each with its own weights; embedding, head and decisions
// drop out. Rows of a step are different tokens, so that each chooses its experts on its own. C++ only, no CUDA types. Errors: those of kernels/stack.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kilotoken::bench {

inline constexpr int kFewLayers = 7, kManyLayers = 14;  // between them one layer of seven without a window, as 10 of the 70

struct LayerTimes {
  int rows = 0;                        // of a step: 1 plain, else a block with its drafts (whose acceptance does not matter here)
  int context = 0;                     // positions in the caches behind the last round
  std::vector<double> few_us, many_us;  // of each round's verify part, device clock; the first rounds are left out
  std::vector<double> experts;         // by round of the many: distinct experts of a layer, mean of the layers between
};

struct Layers {
  uint64_t linear_bytes = 0;  // weights and scales of one layer as stored: projection, output, router
  uint64_t expert_bytes = 0;  // of one expert's part
  std::vector<LayerTimes> times;
};

// About 20 seconds and 25 GB of device memory. Checked: rounds that draft commit the tokens of plain decoding.
Layers measure_layers(int device);

// One JSON object with every sample.
std::string layers_json(const Layers& layers);

}  // namespace kilotoken::bench
