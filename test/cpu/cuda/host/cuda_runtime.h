// In the place of CUDA's own header: device memory is the host's, and a kernel runs thread after thread. Enough to load a model of the stack (kernels/weights.cu,
// kernels/pack) under a host compiler and its sanitizers, on a machine with neither GPU nor toolkit. Kernels that share memory or wait for one another
// cannot run here. launches.ts turns `f<<<grid, block, bytes, stream>>>(args);` into launch_on_host([&] { f(args); }, grid, block, bytes, stream);
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "../cuda_types.h"

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned count = 1) : x(count) {}
};

inline dim3 blockIdx, threadIdx, blockDim, gridDim;

template <class Kernel, class... Rest>
void launch_on_host(Kernel kernel, dim3 grid, dim3 block, Rest...) {
  gridDim = grid, blockDim = block;
  for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x) kernel();
}

// What device code asks of the machine and nothing here runs.
inline size_t __cvta_generic_to_shared(const void*) { std::abort(); }
inline unsigned atomicCAS(unsigned*, unsigned, unsigned) { std::abort(); }
inline void __threadfence_system() { std::abort(); }
[[noreturn]] inline void __trap() { std::abort(); }
inline long long clock64() { std::abort(); }

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
using cudaStream_t = struct HostStream*;
struct cudaDeviceProp {
  char name[16];
  int major, minor, multiProcessorCount;
};

inline int host_multiprocessors = 132;

inline const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "out of memory"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int) {
  *out = {"host", 9, 0, host_multiprocessors};
  return cudaSuccess;
}
template <class T>
cudaError_t cudaMalloc(T** out, size_t bytes) {
  *out = static_cast<T*>(std::malloc(bytes));
  return *out == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* data) {
  std::free(data);
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
