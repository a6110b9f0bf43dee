// What happens when a kernel misbehaves: a trap, an access out of bounds, a kernel that does not end. Each must come out as a DeviceFault, in
// time, and the process must still be able to say so and exit. One fault a process. Argument: trap, bounds, hang or memory.
#include <chrono>
#include <cstdio>
#include <string>

#include "reference/fp8/device.h"

using namespace kilotoken::fp8;

namespace {

__global__ void trap_kernel() { asm volatile("trap;"); }

__global__ void bounds_kernel(int* p) { p[threadIdx.x] = 1; }

// Ends by itself after some seconds, so that the machine is left whole.
__global__ void slow_kernel(long long nanoseconds) {
  long long start, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
  do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  while (now - start < nanoseconds);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  try {
    require_device();
    const Stream stream;
    const Memory held(1 << 20);  // freed, or not, on the way out
    if (what == "trap") trap_kernel<<<1, 1, 0, stream>>>();
    else if (what == "bounds") bounds_kernel<<<1, 32, 0, stream>>>(reinterpret_cast<int*>(size_t{1} << 46));
    else if (what == "hang") slow_kernel<<<1, 1, 0, stream>>>(6'000'000'000LL);
    else if (what == "memory") const Memory most(size_t{1} << 43);
    else return 2;
    check(cudaGetLastError(), "launching a kernel that fails");
    stream.wait(std::chrono::seconds(2));
    std::printf("no fault was seen\n");
    return 1;
  } catch (const DeviceLack& lack) {
    std::printf("error: %s\n", lack.what());
    return 3;
  } catch (const DeviceFault& fault) {
    std::printf("internal error: %s\n", fault.what());
    return 70;
  }
}
