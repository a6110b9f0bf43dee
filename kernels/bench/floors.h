// What this GPU gives at best, measured here and now: the yardsticks beside which every operation's time is printed. Each loop checks what it
// read or received before it is timed. Times are of the GPU's common clock (%globaltimer), launches of stream events. C++ only, no CUDA types.
// Errors: stack::DeviceError for everything the GPU answers; stack::KernelFault, one of them, for a wrong sum and for a wait that ran out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kilotoken::bench {

// Bulk copies into a ring of pages, one block a multiprocessor, one thread issuing, eight warps reading every byte.
struct ReadRate {
  int ring_kib = 0;    // room for pages, of which there are floor(ring / page)
  int page_bytes = 0;
  uint64_t bytes = 0;  // read in one sample, all distinct
  std::vector<double> us;
};

// From one block to another and back, halved; one sample a repeat.
struct Hop {
  int partner = 0;
  std::vector<double> us;
};

struct Floors {
  int blocks = 0;
  double clock_step_ns = 0;  // smallest step of %globaltimer seen
  std::vector<ReadRate> reads;
  std::vector<double> barrier_us;     // all blocks meet at one counter
  std::vector<Hop> flag, flagged, carried;  // a flag alone; 512 bytes, then a flag; 512 bytes each of whose words is its own flag
  std::vector<double> launch_us;      // of an empty kernel, back to back in a stream
  std::vector<double> graph_node_us;  // of the same kernel in a chain of a graph's nodes
};

// About three seconds and 4 GiB of device memory.
Floors measure_floors(int device);

// One JSON object with every sample; fields as above.
std::string floors_json(const Floors& floors);

}  // namespace kilotoken::bench
