// What each matrix product of the stack takes inside one launch that never stops: the instructions of the real list, with the real tilings and pages,
// repeated over weights that are used again only after 200 MB or more of others. A call is the product and the sums of its parts, as binary32 rows.
//
//   stream: a call begins as soon as the ring of pages and its buffers allow; sums are taken one call later, by blocks that take turns. The choice of experts
//           (top-k) is the router's work and no part of the pair: all choices are made by a launch before. Only where a block may have no share of the up products
//           (8 and 16 experts) is the next choice made within, beside the pair.
//   chain:  a call begins when the sums of the call before are stored, as in a layer; for the expert pair the choice of experts is part of it.
//
// Timed on the GPU's common clock from the first instruction's begin to the moment all sums of the last call are stored; nothing is subtracted.
// C++ only, no CUDA types. Errors: those of kernels/stack.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kilotoken::bench {

struct Operation {
  std::string op, weights, arrangement;
  std::string choice;      // of experts: "before" the launch, or "within"; empty: there is none
  int rows = 0, k = 0;     // 0: the expert pair
  int experts = 0;         // 0: none
  int live_rows = 0;       // of the step; the rest are zero
  uint64_t bytes = 0;      // weights and scales of a call, as stored
  int copies = 0, calls = 0;
  std::vector<double> span_us;
  // Before timing, for the first and the last copy: |computed - double| / sum of |terms|, the worst of so many values. The last call of every timed launch
  // has the bits that its copy has when it runs alone.
  int values = 0;
  double error = 0, bound = 0;
};

// About 25 GB of device memory.
std::vector<Operation> measure_operations(int device);

// A JSON array with every sample.
std::string operations_json(const std::vector<Operation>& operations);

}  // namespace kilotoken::bench
