// The GPU as this engine uses it: which one, a stream per sequence, memory that frees itself, errors as exceptions, waits that end.
// Everything runs on the current device: 0, unless a thread has chosen another. Free of kernels.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fault.h"

namespace kilotoken::fp8 {

// One line about what stands in the way of running here, or empty. A fitting GPU has compute capability 9.0.
struct DeviceReport {
  std::string lack;
  std::string name;  // the rest is filled as far as it could be found out
  int major = 0, minor = 0;
  int driver_version = 0;  // of CUDA, 1000 * major + 10 * minor: what the driver supports
  int runtime_version = 0;
  size_t memory = 0, free_memory = 0;  // bytes
};
DeviceReport inspect_device(int device = 0);

// Throws DeviceLack with `lack`.
void require_device(int device = 0);

// Turns an error into DeviceLack (no memory, no driver) or DeviceFault (everything else); `what` completes "while ...".
void check(cudaError_t error, const char* what);

inline constexpr std::chrono::milliseconds kLongestStep = std::chrono::minutes(2);

// True once a wait has run out of time: memory can no longer be given back, nor anything else be asked of the GPU.
bool device_lost();
// Says so after a failure that leaves kernels behind which may never end.
void lose_device();

class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  operator cudaStream_t() const { return stream_; }
  // Returns when all work queued so far is done. Throws DeviceFault if it faulted or takes longer than `longest`.
  void wait(std::chrono::milliseconds longest = kLongestStep) const;

 private:
  cudaStream_t stream_ = nullptr;
};

// Bytes on the device. Growing keeps nothing.
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) { grow(bytes); }
  ~Memory() { release(); }
  Memory(Memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  // At least `bytes`; contents are undefined afterwards. Throws DeviceLack when the GPU has too little.
  void grow(size_t bytes);
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void release();

  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Elements on the device.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t count) { grow(count); }
  // A copy of host data. Complete once the device has been waited for: streams that do not block are not ordered behind it.
  explicit Array(const std::vector<T>& host) : Array(host.size()) {
    if (!host.empty()) check(cudaMemcpy(data(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "copying to the GPU");
  }

  void grow(size_t count) { memory_.grow(count * sizeof(T)); }
  T* data() const { return memory_.as<T>(); }

 private:
  Memory memory_;
};

template <class T>
void to_device(T* device, const T* host, size_t count, const Stream& stream) {
  check(cudaMemcpyAsync(device, host, count * sizeof(T), cudaMemcpyHostToDevice, stream), "copying to the GPU");
}
template <class T>
void to_host(T* host, const T* device, size_t count, const Stream& stream) {
  check(cudaMemcpyAsync(host, device, count * sizeof(T), cudaMemcpyDeviceToHost, stream), "copying from the GPU");
}

}  // namespace kilotoken::fp8
