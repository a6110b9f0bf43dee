// How fast a multiprocessor runs code by its length: the floor under operations that run once a layer, whose instructions have left the cache by the next one (LOG.md).
// Straight code of independent multiply-adds, so many KB of it in a loop; cycles an instruction in the first trip and later, one warp or eight, one multiprocessor or all.
// Its numbers are judged by nobody; the one check is that the shortest loop runs at about one cycle an instruction, so that lengths can be compared.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "check.h"
#include "no_gpu.h"

namespace {

constexpr int kTrips = 8, kInstructionBytes = 16;

template <int kKib>
__global__ void straight(float* out, long long* cycles) {
  float a = static_cast<float>(threadIdx.x), b = 1.0f, c = 0.5f, d = 2.0f;
#pragma unroll 1
  for (int trip = 0; trip < kTrips; ++trip) {
    const long long begin = clock64();
#pragma unroll
    for (int i = 0; i < kKib * 1024 / kInstructionBytes / 16; ++i)
      asm volatile(
          "fma.rn.f32 %0,%0,%4,%4; fma.rn.f32 %1,%1,%4,%4; fma.rn.f32 %2,%2,%4,%4; fma.rn.f32 %3,%3,%4,%4;"
          "fma.rn.f32 %0,%0,%4,%4; fma.rn.f32 %1,%1,%4,%4; fma.rn.f32 %2,%2,%4,%4; fma.rn.f32 %3,%3,%4,%4;"
          "fma.rn.f32 %0,%0,%4,%4; fma.rn.f32 %1,%1,%4,%4; fma.rn.f32 %2,%2,%4,%4; fma.rn.f32 %3,%3,%4,%4;"
          "fma.rn.f32 %0,%0,%4,%4; fma.rn.f32 %1,%1,%4,%4; fma.rn.f32 %2,%2,%4,%4; fma.rn.f32 %3,%3,%4,%4;"
          : "+f"(a), "+f"(b), "+f"(c), "+f"(d)
          : "f"(0.5f));
    if (threadIdx.x == 0) cycles[blockIdx.x * kTrips + trip] = clock64() - begin;
    __syncthreads();
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = a + b + c + d;
}

struct Speed {
  double first, later;  // cycles an instruction; medians over blocks
};

double middle(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

template <int kKib>
Speed measure(int blocks, int threads, float* out, long long* cycles) {
  straight<kKib><<<blocks, threads>>>(out, cycles);
  std::vector<long long> read(static_cast<size_t>(blocks) * kTrips);
  const cudaError_t error = cudaMemcpy(read.data(), cycles, read.size() * sizeof(long long), cudaMemcpyDeviceToHost);
  kilotoken::tally::that(error == cudaSuccess, "%d KB, %d blocks: %s", kKib, blocks, cudaGetErrorString(error));
  std::vector<double> first, later;
  for (int b = 0; b < blocks; ++b) {
    first.push_back(static_cast<double>(read[b * kTrips]));
    for (int trip = kTrips / 2; trip < kTrips; ++trip) later.push_back(static_cast<double>(read[b * kTrips + trip]));
  }
  constexpr double kInstructions = kKib * 1024.0 / kInstructionBytes;
  return {middle(first) / kInstructions, middle(later) / kInstructions};
}

template <int kKib>
Speed row(int all, float* out, long long* cycles) {
  const Speed one = measure<kKib>(1, 32, out, cycles), warp = measure<kKib>(all, 32, out, cycles), eight = measure<kKib>(all, 256, out, cycles);
  std::printf("%5d  %8.2f %8.2f  %8.2f %8.2f  %8.2f %8.2f\n", kKib, one.first, one.later, warp.first, warp.later, eight.first, eight.later);
  return one;
}

}  // namespace

int main() {
  using namespace kilotoken;
  if (tally::no_gpu()) return 3;
  cudaDeviceProp properties;
  cudaGetDeviceProperties(&properties, 0);
  const int all = properties.multiProcessorCount;
  float* out = nullptr;
  long long* cycles = nullptr;
  if (cudaMalloc(&out, sizeof(float) * 256 * all) != cudaSuccess || cudaMalloc(&cycles, sizeof(long long) * kTrips * all) != cudaSuccess) {
    std::fprintf(stderr, "error: no memory on the GPU\n");
    return 3;
  }
  std::printf("%s, %d multiprocessors; cycles an instruction (of eight warps: of each), first trip and later\n", properties.name, all);
  std::printf("   KB  one block, one warp     all, one warp each   all, eight warps each\n");
  const Speed shortest = row<4>(all, out, cycles);
  row<16>(all, out, cycles);
  row<28>(all, out, cycles);
  row<40>(all, out, cycles);
  row<64>(all, out, cycles);
  row<96>(all, out, cycles);
  row<128>(all, out, cycles);
  row<160>(all, out, cycles);
  row<256>(all, out, cycles);
  tally::that(shortest.later > 0.9 && shortest.later < 1.5, "4 KB: %.2f cycles an instruction, not about one", shortest.later);
  return tally::finish("instruction fetch");
}
