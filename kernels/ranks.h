// Waiting for the kernels of all GPUs of a model, and what is said when one of them is missing. A kernel bounds its own waits (kWaitCycles of ptx/memory.cuh: 2 s
// at 2 GHz, 4 s at 1 GHz), so a rank that is missing makes the others stop; the host waits for them, bounds its own wait for what says nothing at all, and finds
// out which rank it was. An error of one GPU ends the work of this process on the GPUs opened to it as well (H200, driver 580.159.04), so what CUDA says of
// a rank may be another's error: who is named is decided by what was there before. C++ only.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace kilotoken::stack {

// Opens the memory of every one of these GPUs to every other. Throws DeviceError naming the two that do not reach each other, or why one was refused.
void link_gpus(const std::vector<int>& devices);

// How one rank's kernel ended.
struct RankEnd {
  int device = 0;
  bool ended = false;                        // false: the host stopped waiting for it
  std::string error;                         // what CUDA says of its stream; empty: nothing
  bool later = false;                        // when that was first said another rank had left a fault, or had an error with which this one still ran
  uint32_t code = 0, block = 0, detail = 0;  // as in ptx::Fault
};

struct RankFailure {
  std::string text;  // one line: what failed, by rank and GPU, and who waited for it
  uint32_t code;     // a fault's code; 0: the GPU left none
};

// What happened, or nothing: all ended well. `waited`: seconds after which the host gave up on those that had not ended. Fault codes are looked at in this
// order, since every wait may run out where another GPU is missing: what the model did; GPUs that failed without a word and none before them, all of them where
// there are several; one that did not end; one that ended, or never began, while others waited; those that still ran when a wait ran out, which ended them; and a
// wait of all of them.
std::optional<RankFailure> judge_ranks(const std::vector<RankEnd>& ends, double waited);

struct RankWait {
  int device;
  cudaStream_t stream;
  const volatile uint32_t* fault;  // ptx::Fault: code, block, detail
};

// Longest waits of the host. `quiet`: without a rank that ends and without `progress`. `others`: for the other ranks after one has failed, by when their own waits
// have run out.
struct Patience {
  std::chrono::milliseconds quiet = std::chrono::seconds(10), others = std::chrono::seconds(6);
};

// Returns when everything queued on all streams is done. `progress`: any number that grows while the kernels get on. Throws KernelFault; DeviceError for a single
// GPU that failed without a word. After giving up on a GPU memory of it is given back by the end of the process alone (device_lost).
void await_ranks(const std::vector<RankWait>& ranks, const std::function<uint64_t()>& progress, const Patience& patience);

}  // namespace kilotoken::stack
