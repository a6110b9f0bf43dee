// In the place of CUDA's own header: the host's calls and the device's built-in functions that the stack uses, over the machine of machine.h. Device memory is the host's.
// A launch is queued; whoever waits for a stream, or copies, runs what is queued. All devices are one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include "../cuda_types.h"
#include "machine.h"

#define __CUDACC__
#define __align__(n) alignas(n)

#define threadIdx (simt::thread_index)
#define blockIdx (simt::block_index)
#define blockDim (simt::block_size)
#define gridDim (simt::grid_size)

using dim3 = simt::Dim;

// --- built-in functions

using std::max, std::min;
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) out |= static_cast<unsigned>(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return out;
}
template <class T>
T __ldg(const T* from) { return *from; }
template <class T>
T __ldcg(const T* from) { return *from; }
inline size_t __cvta_generic_to_shared(const void* pointer) { return simt::shared_offset(pointer); }
inline void __threadfence_system() {}
inline unsigned atomicCAS(unsigned* at, unsigned expected, unsigned value) {
  const unsigned before = *at;
  if (before == expected) *at = value;
  return before;
}
[[noreturn]] inline void __trap() { simt::trap(); }
inline long long clock64() { return simt::clock(); }
inline void __syncthreads() { simt::barrier(0, static_cast<int>(blockDim.x)); }

// --- a warp

template <class T, class From>
T simt_exchange(const char* what, T x, From from) {
  struct Lane {
    T in, out;
  } mine{x, {}};
  simt::warp(what, &mine, [&](void* const(&of)[32]) {
    for (int i = 0; i < 32; ++i) static_cast<Lane*>(of[i])->out = static_cast<Lane*>(of[from(i)])->in;
  });
  return mine.out;
}
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) { return simt_exchange("shfl.bfly", x, [mask](int lane) { return lane ^ mask; }); }
template <class T>
T __shfl_up_sync(unsigned, T x, int by) { return simt_exchange("shfl.up", x, [by](int lane) { return lane >= by ? lane - by : lane; }); }
template <class T>
T __shfl_sync(unsigned, T x, int from) {
  struct Lane {
    T in, out;
    int from;
  } mine{x, {}, from & 31};
  simt::warp("shfl.idx", &mine, [](void* const(&of)[32]) {
    for (void* lane : of) static_cast<Lane*>(lane)->out = static_cast<Lane*>(of[static_cast<Lane*>(lane)->from])->in;
  });
  return mine.out;
}
template <class Fold>
unsigned simt_fold(const char* what, unsigned x, Fold fold) {
  simt::warp(what, &x, [&](void* const(&of)[32]) {
    unsigned all = *static_cast<unsigned*>(of[0]);
    for (void* lane : of) all = fold(all, *static_cast<unsigned*>(lane));
    for (void* lane : of) *static_cast<unsigned*>(lane) = all;
  });
  return x;
}
inline unsigned __reduce_max_sync(unsigned, unsigned x) { return simt_fold("redux.max", x, [](unsigned a, unsigned b) { return std::max(a, b); }); }
inline unsigned __reduce_min_sync(unsigned, unsigned x) { return simt_fold("redux.min", x, [](unsigned a, unsigned b) { return std::min(a, b); }); }
inline int __any_sync(unsigned, int x) { return static_cast<int>(simt_fold("vote.any", x != 0, [](unsigned a, unsigned b) { return a | b; })); }
inline unsigned __ballot_sync(unsigned, int x) { return simt_fold("vote.ballot", x != 0 ? 1u << (threadIdx.x & 31) : 0u, [](unsigned a, unsigned b) { return a | b; }); }
inline void __syncwarp() { simt::warp("syncwarp", nullptr, [](void* const(&)[32]) {}); }

// --- the host

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation = 2, cudaErrorNotReady = 600, cudaErrorPeerAccessAlreadyEnabled = 704, cudaErrorLaunchFailure = 719 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking = 1, cudaHostAllocMapped = 2, cudaHostAllocPortable = 4, cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaStreamCaptureModeThreadLocal = 1 };
struct SimtGraph {
  std::vector<std::function<void(simt::Stream)>> launches;
};
struct SimtStream {
  simt::Stream id = 0;
  SimtGraph* recording = nullptr;
};
using cudaStream_t = SimtStream*;
using cudaGraph_t = SimtGraph*;
using cudaGraphExec_t = SimtGraph*;
struct cudaFuncAttributes {};
struct cudaDeviceProp {
  char name[16];
  int major, minor, multiProcessorCount;
};

inline simt::Stream simt_id(cudaStream_t stream) { return stream == nullptr ? 0 : stream->id; }
inline cudaError_t simt_status() { return simt::failed() ? cudaErrorLaunchFailure : cudaSuccess; }
// Behind what the stream has, or into the graph that is being recorded.
template <class Kernel>
void simt_launch(Kernel kernel, dim3 grid, dim3 block, size_t bytes = 0, cudaStream_t stream = nullptr) {
  const auto queue = [kernel, grid, block, bytes](simt::Stream id) { simt::launch(kernel, grid, block, bytes, id); };
  if (stream != nullptr && stream->recording != nullptr) stream->recording->launches.push_back(queue);
  else queue(simt_id(stream));
}

// At once: what the kernel refers to may be gone by the time somebody waits.
template <class Kernel>
void simt_launch_now(Kernel kernel, dim3 grid, dim3 block, size_t bytes = 0, cudaStream_t stream = nullptr) {
  simt::launch(kernel, grid, block, bytes, simt_id(stream));
  simt::finish(simt_id(stream));
}

inline const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : error == cudaErrorLaunchFailure ? "unspecified launch failure" : "an error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* out) {
  *out = 1;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int) {
  const char* const count = std::getenv("KILOTOKEN_SIMT_MULTIPROCESSORS");
  *out = {"simulated", 9, 0, count == nullptr ? 132 : std::atoi(count)};
  return cudaSuccess;
}
inline cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 1;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
template <class T>
cudaError_t cudaFuncSetAttribute(T, int, int) { return cudaSuccess; }
template <class T>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, T) { return cudaSuccess; }

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) {
  *out = new SimtStream{simt::make_stream()};
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  simt::finish(simt_id(stream));
  return simt_status();
}
inline cudaError_t cudaDeviceSynchronize() {
  simt::finish_all();
  return simt_status();
}
inline cudaError_t cudaStreamQuery(cudaStream_t stream) { return !simt::step(simt_id(stream)) ? cudaErrorNotReady : simt_status(); }

template <class T>
cudaError_t cudaMalloc(T** out, size_t bytes) {
  *out = static_cast<T*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
  if (*out == nullptr) return cudaErrorMemoryAllocation;
  std::memset(static_cast<void*>(*out), 0xff, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* data) {
  std::free(data);
  return cudaSuccess;
}
template <class T>
cudaError_t cudaHostAlloc(T** out, size_t bytes, unsigned) { return cudaMalloc(out, bytes); }
inline cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }
inline cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  simt::finish_all();
  std::memset(to, value, bytes);
  return simt_status();
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  simt::finish(simt_id(stream));
  std::memset(to, value, bytes);
  return simt_status();
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  simt::finish_all();
  std::memcpy(to, from, bytes);
  return simt_status();
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  simt::finish(simt_id(stream));
  std::memcpy(to, from, bytes);
  return simt_status();
}
inline cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind) {
  simt::finish_all();
  for (size_t row = 0; row < height; ++row) std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
  return simt_status();
}
template <class T>
cudaError_t cudaMemcpyToSymbol(T& symbol, const void* from, size_t bytes) {
  simt::finish_all();
  std::memcpy(const_cast<std::remove_cv_t<T>*>(&symbol), from, bytes);
  return simt_status();
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, int) {
  stream->recording = new SimtGraph;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  *out = std::exchange(stream->recording, nullptr);
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  *out = new SimtGraph(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return cudaGraphDestroy(graph); }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  for (const auto& launch : graph->launches) launch(simt_id(stream));
  return cudaSuccess;
}
