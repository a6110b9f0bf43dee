#include "gpu_look.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <mutex>

namespace kilotoken {

namespace {

using Device = void*;
using Status = int;
constexpr Status kSuccess = 0, kInsufficientSize = 7;
constexpr unsigned long long kNotAvailable = ~0ull;

// Entries of the lists: with the third and second version of the functions, and with the first.
struct Process {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance, compute_instance;
};
struct FirstProcess {
  unsigned pid;
  unsigned long long used;
};
static_assert(sizeof(Process) == 24 && sizeof(FirstProcess) == 16);

struct Memory {
  unsigned version;
  unsigned long long total, reserved, free, used;
};
static_assert(sizeof(Memory) == 40);
constexpr unsigned kMemoryVersion = sizeof(Memory) | 2u << 24;

// Loaded and started once, and kept: starting takes long where no other program keeps the driver awake.
class Library {
 public:
  static const Library& get() {
    static const Library library;
    return library;
  }

  std::string lack;  // why nothing can be asked; empty: it can

  std::string text(Status status) const {
    const char* said = error_string_ == nullptr ? nullptr : error_string_(status);
    return said == nullptr ? "error " + std::to_string(status) : said;
  }

  GpuLook look(const std::string& address) const {
    GpuLook out;
    if (!lack.empty()) {
      out.unseen.push_back(lack);
      return out;
    }
    Device device = nullptr;
    if (const Status status = by_address_(address.c_str(), &device); status != kSuccess) {
      out.unseen.push_back("the driver's management library does not know the GPU at " + address + ": " + text(status));
      return out;
    }
    std::map<unsigned, unsigned long long> found;
    const bool computing = list("nvmlDeviceGetComputeRunningProcesses", "processes that compute", device, found, out);
    list("nvmlDeviceGetGraphicsRunningProcesses", "processes that draw", device, found, out);
    out.listed = computing;  // a GPU without a display has no other list
    const unsigned self = static_cast<unsigned>(getpid());
    for (const auto& [pid, bytes] : found) {
      GpuProcess process{pid, "", std::nullopt, pid == self};
      std::ifstream comm("/proc/" + std::to_string(pid) + "/comm");
      std::getline(comm, process.name);
      if (bytes != kNotAvailable) process.bytes = bytes;
      out.processes.push_back(std::move(process));
    }
    Memory memory{};
    memory.version = kMemoryVersion;
    const Status told = memory_ == nullptr ? kSuccess : memory_(device, &memory);
    if (memory_ == nullptr) out.unseen.push_back("memory in use: this driver does not tell it apart from what it keeps for itself");
    else if (told != kSuccess) out.unseen.push_back("memory in use: " + text(told));
    else out.used_bytes = memory.used;
    return out;
  }

 private:
  Library() {
    // NOTE: never closed. Threads of the driver may outlive a look.
    handle_ = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (handle_ == nullptr) {
      lack = "the driver's management library (libnvidia-ml.so.1) cannot be loaded";
      return;
    }
    auto init = symbol<Status (*)()>("nvmlInit_v2");
    if (init == nullptr) init = symbol<Status (*)()>("nvmlInit");
    by_address_ = symbol<Status (*)(const char*, Device*)>("nvmlDeviceGetHandleByPciBusId_v2");
    memory_ = symbol<Status (*)(Device, Memory*)>("nvmlDeviceGetMemoryInfo_v2");
    error_string_ = symbol<const char* (*)(Status)>("nvmlErrorString");
    if (init == nullptr || by_address_ == nullptr) {
      lack = "the driver's management library (libnvidia-ml.so.1) lacks functions of its interface";
      return;
    }
    if (const Status status = init(); status != kSuccess) lack = "the driver's management library does not start: " + text(status);
  }

  template <class F>
  F symbol(const std::string& name) const {
    return reinterpret_cast<F>(dlsym(handle_, name.c_str()));
  }

  // Adds one of the two lists; false, and a reason, if it is not to be had.
  bool list(const std::string& function, const char* what, Device device, std::map<unsigned, unsigned long long>& found, GpuLook& out) const {
    using List = Status (*)(Device, unsigned*, void*);
    bool first = false;
    auto ask = symbol<List>(function + "_v3");
    if (ask == nullptr) ask = symbol<List>(function + "_v2");
    if (ask == nullptr) ask = symbol<List>(function), first = true;
    if (ask == nullptr) {
      out.unseen.push_back(std::string(what) + ": the driver's management library has no such list");
      return false;
    }
    Status status = kInsufficientSize;
    for (unsigned room = 64; status == kInsufficientSize && room <= 65536; room *= 8) {
      // Some drivers have entries of 32 bytes: room for them, whatever they are read as.
      std::vector<unsigned char> entries(size_t{room} * 32);
      unsigned count = room;
      status = ask(device, &count, entries.data());
      if (status != kSuccess) continue;
      for (unsigned i = 0; i < std::min(count, room); ++i) {
        const unsigned pid = first ? reinterpret_cast<const FirstProcess*>(entries.data())[i].pid : reinterpret_cast<const Process*>(entries.data())[i].pid;
        const unsigned long long used = first ? reinterpret_cast<const FirstProcess*>(entries.data())[i].used : reinterpret_cast<const Process*>(entries.data())[i].used;
        found[pid] = used;
      }
    }
    if (status == kSuccess) return true;
    out.unseen.push_back(std::string(what) + ": " + text(status));
    return false;
  }

  void* handle_ = nullptr;
  Status (*by_address_)(const char*, Device*) = nullptr;
  Status (*memory_)(Device, Memory*) = nullptr;
  const char* (*error_string_)(Status) = nullptr;
};

}  // namespace

std::vector<GpuLook> look_at_addresses(const std::vector<std::string>& addresses) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  std::vector<GpuLook> out;
  for (const std::string& address : addresses) {
    out.push_back(Library::get().look(address));
    out.back().gpu = static_cast<int>(out.size()) - 1;
  }
  return out;
}

}  // namespace kilotoken
