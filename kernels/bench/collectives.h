// The all-reduce of the stack (kernels/comm) alone: a resident kernel a GPU that repeats it many times in one launch, in both its forms, over the GPUs of one
// process; beside it NCCL's (collectives_nccl.cpp). Rows of 6144 binary32 values, as the residual has; the stack itself always reduces eight.
//
//   chain:    what a rank adds next is base - sum / 16, value by value: a call follows the one before it by data alone. Values may drift apart. Low bits of the
//             base change with every call, so that sums do not settle and one of an earlier call is told from this one's.
//   step:     the same, and behind each call all blocks of a GPU meet at one counter, as they do in a layer: no part of a call overlaps another call.
//   barrier:  the meeting alone, to be held beside `step`.
//
// Samples are cycles of the multiprocessor that runs block 0, between the moments at which its first thread is through two calls one behind the other. The first
// calls of a launch are not counted. C++ only, no CUDA types. Errors: stack::DeviceError for what the machine lacks (fewer GPUs, a missing link),
// stack::KernelFault, one of them, for a wait that ran out. Sums with other bits than they must have are a result: Collectives::wrong.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kilotoken::bench {

inline constexpr int kCollectiveHidden = 6144, kCollectiveRows = 8;
inline constexpr int kCollectiveWarm = 50, kCollectiveCalls = 1000;  // of a launch
inline constexpr float kFeedback = -0.0625f;  // of a sum into the next summand; a power of two: the product is exact, contracted or not
// In call c the bits c * kVariation >> 20 & kVaried of a base are turned over: low ones, but for the lowest, which is not data.
inline constexpr uint32_t kVariation = 0x9e3779b1u, kVaried = 0xffeu;
inline constexpr int kCheckedCalls = 16;                             // of a launch whose sums are handed over

enum class Data { kRandom, kCancelling };
const char* name_of(Data data);

// What `rank` of `ranks` adds first, and its base, [8][6144]. Random: multiples of 2^-23 in [-1, 1). Cancelling: the same, and beside it up to 4096 that the rank half of all
// ranks further on takes away again, so that most of a sum's bits are lost and its order shows.
std::vector<float> collective_base(Data data, int rank, int ranks);

// The sum of call `calls`, computed here: binary32, in the order of ranks, round to nearest even. The lowest bit of what goes over the links is not data
// (kernels/persistent/instruction.h, Parts): of each summand it reads as zero, and with two hops of the sum.
std::vector<float> expected_sums(const std::vector<std::vector<float>>& base, int calls, bool one_hop);

// Places at which `sums` has other bits than `expected`, of the first `values`; what is said of the first of them lands in `text`.
int count_differences(const float* sums, const float* expected, int values, std::string& text);

// One launch as one rank saw it.
struct CollectiveLaunch {
  std::string how;          // "one-hop", "two-hops"; "none" of the meeting alone
  std::string arrangement;  // "chain", "step", "barrier"
  int rows = 0, launch = 0, rank = 0;
  uint64_t span_ns = 0;     // %globaltimer over the counted calls, block 0
  uint64_t slowest_ns = 0;  // and of the block for which they took longest
  std::vector<uint32_t> cycles;
};

// Sums of the last of kCheckedCalls calls at eight rows, by rank.
struct CollectiveCheck {
  std::string how, data;
  std::vector<std::vector<float>> sums;
};

// A mistake made on purpose, and at how many places of how many the comparison saw it. 0: the comparison proves nothing.
struct PlantedMistake {
  std::string how, mistake;  // "ranks added in another order", "marks of the use before"
  int seen = 0, values = 0;
};

struct NcclTimes {
  std::string how;  // "eager", "graph"
  int rank = 0;
  std::vector<double> us;  // a call: the mean over a batch, by events of the rank's stream
};

struct NcclAllReduce {
  std::string version;           // empty when there is none
  std::string lack, graph_lack;  // why nothing, or no graph, was measured; or empty
  int batch = 0;                 // calls between two events
  std::vector<NcclTimes> times;  // at eight rows
};

struct Collectives {
  int gpus = 0;
  std::string gpu;  // name of the first
  std::vector<CollectiveLaunch> launches;
  std::vector<CollectiveCheck> checks;
  std::vector<PlantedMistake> planted;
  std::vector<std::string> wrong;  // ranks whose sums are not expected_sums, in words; nothing is timed behind the first
  NcclAllReduce nccl;
};

// Over the first `gpus` GPUs, 2 .. 8; 0: as many as there are. A few seconds; NCCL takes most of them.
Collectives measure_collectives(int gpus);

// 8 x 6144 in place, summed by NCCL. Never throws: what goes wrong is its lack.
NcclAllReduce measure_nccl(int gpus);

// Whether the comparison found nothing, and would have found the mistakes made on purpose.
bool sound(const Collectives& collectives);

// One JSON object with every sample; sums are left out.
std::string collectives_json(const Collectives& collectives);

}  // namespace kilotoken::bench
