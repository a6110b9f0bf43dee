// Who is on the GPUs besides this process, as the driver's management library (NVML) tells. It is loaded when it is asked for, makes no CUDA
// context and leaves the GPUs as they are. What it cannot tell is a reason in words, never a process less.
// Source: NVML API reference, "Device Queries", "Structs" (layouts and versioned names of functions).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kilotoken {

struct GpuProcess {
  uint32_t pid = 0;               // as the driver numbers it; in a container that may be another space of numbers than ours
  std::string name;               // of /proc/<pid>/comm, or empty: not visible here
  std::optional<uint64_t> bytes;  // of the GPU's memory; absent: the driver does not say
  bool own = false;               // this process, by its number
};

struct GpuLook {
  int gpu = 0;
  bool listed = false;                 // whether the driver gave a list
  std::vector<GpuProcess> processes;   // computing or drawing, ascending by pid, each once
  std::optional<uint64_t> used_bytes;  // by anybody; without what the driver keeps for itself
  bool held = false;                   // this process has a CUDA context on it, so that it should be listed itself
  std::vector<std::string> unseen;     // what could not be seen, and why
};

// The GPUs that CUDA shows, in its order; empty if it shows none.
std::vector<GpuLook> look_at_gpus();

// Of GPUs by their PCI addresses ("00000000:3B:00.0"): the same without CUDA; nothing is `held`.
std::vector<GpuLook> look_at_addresses(const std::vector<std::string>& addresses);

}  // namespace kilotoken
