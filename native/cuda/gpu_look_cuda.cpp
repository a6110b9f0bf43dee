// Which GPUs CUDA shows, at which addresses, and whether this process has a context on them. Neither question makes one.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include "gpu_look.h"

namespace kilotoken {

namespace {

// By the driver itself: asking the runtime for anything of a GPU would make the context. False also where it cannot be told.
bool has_context(int gpu) {
  using State = int (*)(int, unsigned*, int*);
  static const State state = [] {
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    return driver == nullptr ? nullptr : reinterpret_cast<State>(dlsym(driver, "cuDevicePrimaryCtxGetState"));
  }();
  unsigned flags = 0;
  int active = 0;
  return state != nullptr && state(gpu, &flags, &active) == 0 && active != 0;
}

}  // namespace

std::vector<GpuLook> look_at_gpus() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return {};
  }
  std::vector<std::string> addresses;
  for (int gpu = 0; gpu < count; ++gpu) {
    char address[32] = "";
    if (cudaDeviceGetPCIBusId(address, sizeof address, gpu) != cudaSuccess) cudaGetLastError();
    addresses.emplace_back(address);
  }
  std::vector<GpuLook> looks = look_at_addresses(addresses);
  for (GpuLook& look : looks) look.held = has_context(look.gpu);
  return looks;
}

}  // namespace kilotoken
