#include "device.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>

namespace kilotoken::fp8 {

namespace {

constexpr auto kSpin = std::chrono::microseconds(200);

std::atomic<bool> lost{false};

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

std::string gib(size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f GiB", static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0));
  return text;
}

std::string lack_of(cudaError_t error) {
  switch (error) {
    case cudaErrorNoDevice: return "no CUDA device: the driver finds no GPU";
    case cudaErrorInsufficientDriver: return "the NVIDIA driver is missing or older than this build's CUDA " + version_text(CUDART_VERSION);
    case cudaErrorInitializationError:
    case cudaErrorSystemNotReady:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorDeviceUninitialized:
    case cudaErrorOperatingSystem: return std::string("the GPU cannot be used: ") + cudaGetErrorString(error);
    case cudaErrorNoKernelImageForDevice: return "this build has no code for the GPU; a GPU of compute capability 9.0 (Hopper) is needed";
    default: return "";
  }
}

}  // namespace

DeviceReport inspect_device(int device) {
  DeviceReport report;
  report.runtime_version = CUDART_VERSION;
  int count = 0;
  cudaDriverGetVersion(&report.driver_version);
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess) {
    cudaGetLastError();
    report.lack = lack_of(found);
    if (report.driver_version == 0) report.lack = "no NVIDIA driver on this machine";
    if (report.lack.empty()) report.lack = std::string("the GPU cannot be used: ") + cudaGetErrorString(found);
    return report;
  }
  if (count == 0) {
    report.lack = "no CUDA device: the driver finds no GPU";
    return report;
  }
  if (device < 0 || device >= count) {
    report.lack = "there is no GPU " + std::to_string(device) + ": the driver finds " + std::to_string(count);
    return report;
  }
  cudaDeviceProp properties{};
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device); error != cudaSuccess) {
    report.lack = std::string("the GPU cannot be used: ") + cudaGetErrorString(error);
    return report;
  }
  report.name = properties.name;
  report.major = properties.major;
  report.minor = properties.minor;
  report.memory = properties.totalGlobalMem;
  if (report.major != 9 || report.minor != 0) {
    report.lack = report.name + " has compute capability " + std::to_string(report.major) + "." + std::to_string(report.minor) +
                  "; 9.0 (Hopper) is needed";
    return report;
  }
  int current = 0;
  size_t total = 0;
  cudaGetDevice(&current);
  cudaError_t error = cudaSetDevice(device);
  if (error == cudaSuccess) error = cudaMemGetInfo(&report.free_memory, &total);
  if (error != cudaSuccess) report.lack = std::string("the GPU cannot be used: ") + cudaGetErrorString(error);
  if (current != device) cudaSetDevice(current);
  return report;
}

void require_device(int device) {
  const DeviceReport report = inspect_device(device);
  if (!report.lack.empty()) throw DeviceLack(report.lack);
}

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  if (const std::string lack = lack_of(error); !lack.empty()) throw DeviceLack(lack);
  if (error == cudaErrorMemoryAllocation) throw DeviceLack(std::string("the GPU has too little memory for ") + what);
  throw DeviceFault(std::string("the GPU failed while ") + what + ": " + cudaGetErrorString(error));
}

bool device_lost() { return lost.load(); }

void lose_device() { lost = true; }

Stream::Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }

Stream::~Stream() {
  if (stream_ != nullptr && !device_lost()) cudaStreamDestroy(stream_);
}

void Stream::wait(std::chrono::milliseconds longest) const {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (;;) {
    const cudaError_t state = cudaStreamQuery(stream_);
    if (state == cudaSuccess) return;
    if (state != cudaErrorNotReady) {
      lost = true;
      check(state, "running a step");
    }
    const auto waited = Clock::now() - start;
    if (waited > longest) {
      lost = true;
      throw DeviceFault("the GPU did not finish a step within " + std::to_string(longest.count() / 1000) + " s");
    }
    if (waited > kSpin) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void Memory::grow(size_t bytes) {
  if (bytes <= bytes_) return;
  release();
  const cudaError_t error = cudaMalloc(&data_, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    data_ = nullptr;
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw DeviceLack("the GPU has too little memory: " + gib(bytes) + " more are needed, " + gib(free) + " of " + gib(total) + " are free");
  }
  check(error, "allocating memory");
  bytes_ = bytes;
}

void Memory::release() {
  if (data_ != nullptr && !device_lost()) cudaFree(data_);
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace kilotoken::fp8
