// What a rank of a tensor-parallel step needs of the others. Calls queue work on a stream and return; every rank makes the same calls in the
// same order.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace kilotoken::fp8 {

class Collectives {
 public:
  virtual ~Collectives() = default;
  // y, [ranks][count]: x, [count], of every rank, in order of rank.
  virtual void all_gather(const float* x, size_t count, float* y, cudaStream_t stream) = 0;
  // x, [count], becomes the sum over the ranks in an order of the library's own, the same on every rank.
  virtual void all_reduce(float* x, size_t count, cudaStream_t stream) = 0;
};

}  // namespace kilotoken::fp8
