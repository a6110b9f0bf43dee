// Device memory with an owner, and the one place where a CUDA status becomes an exception.
#pragma once

#include <atomic>
#include <cstddef>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include "stack.h"

namespace kilotoken::stack {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw DeviceError(std::string(what) + ": " + cudaGetErrorString(status));
}

// True once the host has given up on a kernel: giving memory back would wait for it. The end of the process gives it back.
inline std::atomic<bool>& lost_device() {
  static std::atomic<bool> lost{false};
  return lost;
}
inline bool device_lost() { return lost_device(); }
inline void lose_device() { lost_device() = true; }

// A copy to the device that has arrived when it returns. cudaMemcpy from pageable memory alone only promises that the source can be
// reused, and sequences run on streams that do not wait for the default one.
inline void copy_in(void* to, const void* from, size_t bytes, const char* what) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), what);
  check(cudaStreamSynchronize(nullptr), what);
}

// Zeroed at birth; freed at death.
template <class T>
class Device {
 public:
  Device() = default;
  explicit Device(size_t count) : count_(count) {
    if (count == 0) return;
    check(cudaMalloc(&data_, count * sizeof(T)), "device memory");
    check(cudaMemset(data_, 0, count * sizeof(T)), "device memory");
    check(cudaStreamSynchronize(nullptr), "device memory");
  }
  explicit Device(const std::vector<T>& values) : Device(values.size()) {
    if (!values.empty()) copy_in(data_, values.data(), bytes(), "copy to device");
  }
  Device(Device&& other) noexcept : data_(other.data_), count_(other.count_) { other.data_ = nullptr, other.count_ = 0; }
  Device& operator=(Device&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  Device(const Device&) = delete;
  ~Device() {
    if (!device_lost()) cudaFree(data_);
  }

  T* get() const { return data_; }
  size_t size() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }

 private:
  T* data_ = nullptr;
  size_t count_ = 0;
};

}  // namespace kilotoken::stack
