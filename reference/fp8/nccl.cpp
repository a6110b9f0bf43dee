#include "nccl.h"

#include <dlfcn.h>

#include <cstdlib>

#include "fault.h"

namespace kilotoken::fp8 {

namespace {

constexpr int kOldest = 21000;  // 2.10

template <class F>
void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (function == nullptr) throw DeviceLack(std::string("NCCL lacks ") + name);
}

Nccl load() {
  const char* given = std::getenv("NCCL_LIBRARY");
  const std::string name = given != nullptr && *given != '\0' ? given : "libnccl.so.2";
  setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    throw DeviceLack("several ranks need NCCL: " + std::string(why != nullptr ? why : name) +
                     " (set NCCL_LIBRARY to the file; `pip install nvidia-nccl-cu13` puts it at site-packages/nvidia/nccl/lib/libnccl.so.2)");
  }
  Nccl n{};
  find(library, "ncclGetVersion", n.get_version);
  find(library, "ncclGetErrorString", n.error_string);
  find(library, "ncclGetUniqueId", n.get_unique_id);
  find(library, "ncclCommInitRank", n.init_rank);
  find(library, "ncclCommDestroy", n.destroy);
  find(library, "ncclCommAbort", n.abort);
  find(library, "ncclCommGetAsyncError", n.async_error);
  find(library, "ncclAllReduce", n.all_reduce);
  find(library, "ncclAllGather", n.all_gather);
  n.last_error = reinterpret_cast<decltype(n.last_error)>(dlsym(library, "ncclGetLastError"));  // since 2.13
  if (n.get_version(&n.version) != kNcclSuccess || n.version < kOldest)
    throw DeviceLack("NCCL " + nccl_version_text(n.version) + " is too old, " + nccl_version_text(kOldest) + " or later is needed");
  Dl_info info{};
  n.path = dladdr(reinterpret_cast<void*>(n.get_version), &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : name;
  return n;
}

}  // namespace

const Nccl& nccl() {
  static const Nccl loaded = load();
  return loaded;
}

std::string nccl_version_text(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

void check_nccl(int result, const char* what, NcclComm comm) {
  if (result == kNcclSuccess || result == kNcclInProgress) return;
  std::string text = std::string("NCCL failed while ") + what + ": " + nccl().error_string(result);
  const char* last = nccl().last_error != nullptr ? nccl().last_error(comm) : nullptr;
  if (last != nullptr && *last != '\0') text += std::string(" (") + last + ")";
  throw RankFault(text);
}

void NcclCollectives::all_gather(const float* x, size_t count, float* y, cudaStream_t stream) {
  check_nccl(nccl().all_gather(x, y, count, kNcclFloat32, comm_, stream), "gathering over the ranks", comm_);
}

void NcclCollectives::all_reduce(float* x, size_t count, cudaStream_t stream) {
  check_nccl(nccl().all_reduce(x, x, count, kNcclFloat32, kNcclSum, comm_, stream), "summing over the ranks", comm_);
}

}  // namespace kilotoken::fp8
