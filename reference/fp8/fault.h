// The ways a GPU, or a process of the same run, fails a caller. Free of CUDA headers, so that whoever reports them needs no toolkit.
#pragma once

#include <stdexcept>

namespace kilotoken::fp8 {

// The machine lacks what was asked for: a driver, a fitting GPU, memory.
struct DeviceLack : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A kernel faulted, or the GPU did not answer in time. The process can use the GPU no more.
struct DeviceFault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The other ranks: one did not come, ended, was started otherwise, or how to reach them is not said.
struct RankFault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace kilotoken::fp8
