// In the place of CUDA's own header, for ranks.test.ts and gpu-look.test.ts: streams that end when a script says so, on GPUs that are not there. Device memory is the
// host's. ADDRESSES: PCI addresses of the GPUs, "none" for a driver without any.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sstream>
#include <string>

enum cudaError_t { cudaSuccess = 0, cudaErrorNoDevice = 100, cudaErrorNotReady = 600, cudaErrorIllegalAddress = 700, cudaErrorPeerAccessAlreadyEnabled = 704, cudaErrorTooManyPeers = 711, cudaErrorLaunchFailure = 719 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice };

struct FakeStream {
  std::chrono::steady_clock::time_point ends;  // max(): never
  cudaError_t status;
};
using cudaStream_t = FakeStream*;

inline int current_gpu = -1;
inline int gone_gpu = -1;  // choosing it fails, from when its stream has ended
inline cudaError_t last_error = cudaSuccess;

inline cudaError_t cudaSetDevice(int gpu) {
  current_gpu = gpu;
  return gpu == gone_gpu ? cudaErrorLaunchFailure : cudaSuccess;
}
inline std::function<void(std::chrono::steady_clock::time_point)> before_query;  // what happens meanwhile on all GPUs
inline cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const auto now = std::chrono::steady_clock::now();
  if (before_query) before_query(now);
  if (now < stream->ends) return last_error = cudaErrorNotReady;
  return stream->status;
}
inline cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
// LINKS: pairs "from>to=status", status -1: no link; all others work.
inline int link_between(int from, int to) {
  const char* links = std::getenv("LINKS");
  const std::string pair = std::to_string(from) + ">" + std::to_string(to) + "=";
  const char* at = links == nullptr ? nullptr : std::strstr(links, pair.c_str());
  return at == nullptr ? 0 : std::atoi(at + pair.size());
}
inline cudaError_t cudaDeviceCanAccessPeer(int* reaches, int from, int to) { return *reaches = link_between(from, to) >= 0, cudaSuccess; }
inline std::string enabled;
inline cudaError_t cudaDeviceEnablePeerAccess(int to, unsigned) {
  enabled += " " + std::to_string(current_gpu) + ">" + std::to_string(to);
  return last_error = static_cast<cudaError_t>(link_between(current_gpu, to));
}
inline const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorTooManyPeers) return "peer mapping resources exhausted";
  return error == cudaErrorIllegalAddress ? "an illegal memory access was encountered" : error == cudaErrorLaunchFailure ? "unspecified launch failure" : "?";
}
inline cudaError_t cudaDeviceGetPCIBusId(char* to, int size, int gpu) {
  std::istringstream text(std::getenv("ADDRESSES"));
  std::string address;
  for (int i = 0; i <= gpu; ++i) text >> address;
  std::snprintf(to, static_cast<size_t>(size), "%s", address.c_str());
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  std::istringstream text(std::getenv("ADDRESSES"));
  std::string address;
  for (*count = 0; text >> address; ++*count)
    if (address == "none") return cudaErrorNoDevice;
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) { return std::memcpy(to, from, bytes), cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
template <class T>
cudaError_t cudaMalloc(T** to, size_t bytes) {
  return *to = static_cast<T*>(std::malloc(bytes)), cudaSuccess;
}
inline cudaError_t cudaMemset(void* to, int byte, size_t bytes) { return std::memset(to, byte, bytes), cudaSuccess; }
inline int freed = 0;
inline cudaError_t cudaFree(void* memory) { return std::free(memory), ++freed, cudaSuccess; }
