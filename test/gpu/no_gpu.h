// A machine without a GPU is no failed check: one line and exit code 3, as the command line ends there.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>

namespace kilotoken::tally {

inline bool no_gpu() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && devices > 0) return false;
  std::fprintf(stderr, "error: no GPU: %s\n", error == cudaSuccess ? "the driver finds none" : cudaGetErrorString(error));
  return true;
}

}  // namespace kilotoken::tally
