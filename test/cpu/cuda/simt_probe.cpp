// What the GPU in software must not let pass: kernels of a few lines, each right or with one mistake. Argument: the name of a kernel; prints what came of it.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "kernels/ptx/memory.cuh"
#include "kernels/ptx/warp.cuh"
#include "kernels/ptx/wgmma.cuh"

using namespace kilotoken;

namespace {

alignas(16) uint8_t source[4096];
ptx::Fault fault;
uint32_t flag;
float result[128];

struct Memory {
  alignas(128) uint8_t page[2048];
  alignas(128) uint8_t input[2048];
  uint64_t barrier;
};
Memory& memory() { return *reinterpret_cast<Memory*>(simt::shared_memory()); }

// A page comes by bulk copy; every thread reads a byte of it. `waits`: as it must.
void copy_kernel(bool waits) {
  Memory& m = memory();
  if (threadIdx.x == 0) {
    ptx::barrier_init(&m.barrier, 1);
    ptx::barrier_expect(&m.barrier, sizeof m.page);
    ptx::bulk_copy(m.page, source, sizeof m.page, &m.barrier);
  }
  __syncthreads();
  if (waits) ptx::barrier_wait(&m.barrier, 0, &fault, ptx::Wait::kRingFull, 0);
  result[threadIdx.x] = m.page[threadIdx.x];
}

void own_copy_kernel(bool waits) {
  Memory& m = memory();
  ptx::copy_16(m.page + threadIdx.x * 16, source + threadIdx.x * 16, true);
  ptx::copies_commit();
  if (waits) ptx::copies_wait<0>();
  __syncthreads();
  result[threadIdx.x] = m.page[(threadIdx.x ^ 1) * 16];
}

// Ones times ones, 32 of k. `overwrites`: the input changes before the product is waited for.
void product_kernel(bool waits, bool overwrites) {
  Memory& m = memory();
  for (int i = 0; i < 2; ++i) {
    std::memset(m.page + (threadIdx.x + 128 * i) * 8, 0x38, 8);
    std::memset(m.input + (threadIdx.x + 128 * i) * 8, 0x38, 8);
  }
  __syncthreads();
  float d[4];
  ptx::products_begin();
  ptx::product_e4m3(d, ptx::operand(ptx::shared_address(m.page), 1024, 128), ptx::operand(ptx::shared_address(m.input), 128, 128));
  ptx::products_commit();
  if (overwrites) m.input[threadIdx.x] = 0;
  if (waits) ptx::products_wait<0>();
  result[threadIdx.x] = d[0];
}

// Four matrices of eight rows of sixteen bytes, as they are and transposed: eight elements of a lane, each of which is counted if it is the right one. `elsewhere`: the
// last matrix lies behind the block's memory.
void matrices_kernel(bool elsewhere) {
  Memory& m = memory();
  uint16_t* const page = reinterpret_cast<uint16_t*>(m.page);
  for (int i = 0; i < 2; ++i) page[threadIdx.x + 128 * i] = static_cast<uint16_t>(threadIdx.x + 128 * i);
  __syncthreads();
  const uint32_t lane = threadIdx.x % 32, row = ptx::shared_address(page + lane * 8) + (elsewhere && lane >= 24 ? sizeof m : 0);
  uint32_t rows[4], columns[4];
  ptx::load_rows(rows, row);
  ptx::load_columns(columns, row);
  for (uint32_t n = 0; n < 4; ++n)
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t one = lane / 4, pair = lane % 4 * 2 + i;
      result[threadIdx.x] += (rows[n] >> 16 * i & 0xffff) == n * 64 + one * 8 + pair && (columns[n] >> 16 * i & 0xffff) == n * 64 + pair * 8 + one;
    }
}

// One block tells all others; `tells` is false: nobody does.
void flag_kernel(bool tells) {
  if (blockIdx.x == 0 && threadIdx.x == 0 && tells) ptx::add_release(&flag, 1);
  if (threadIdx.x == 0) ptx::wait_counter(&flag, 1, &fault, ptx::Wait::kPrevious, 17);
  __syncthreads();
  result[threadIdx.x] = 1;
}

void unread_barrier_kernel() {
  Memory& m = memory();
  if (threadIdx.x == 0) ptx::barrier_init(&m.barrier, 1);
  __syncthreads();
  ptx::barrier_wait(&m.barrier, 0, &fault, ptx::Wait::kExperts, 5);
}

void divided_warp_kernel() {
  if (threadIdx.x % 2 == 0) __syncwarp();
  else result[threadIdx.x] = __shfl_xor_sync(~0u, 1.0f, 1);
}

void short_barrier_kernel() {
  if (threadIdx.x < 96) ptx::group_sync<1, 128>();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  std::memset(source, 7, sizeof source);
  const auto run = [](auto kernel, int blocks = 1) { return (simt_launch(kernel, blocks, 128, sizeof(Memory)), cudaDeviceSynchronize()); };
  cudaError_t status = cudaSuccess;
  if (name == "copy") status = run([] { copy_kernel(true); });
  else if (name == "copy unawaited") status = run([] { copy_kernel(false); });
  else if (name == "own copy") status = run([] { own_copy_kernel(true); });
  else if (name == "own copy unawaited") status = run([] { own_copy_kernel(false); });
  else if (name == "product") status = run([] { product_kernel(true, false); });
  else if (name == "product unawaited") status = run([] { product_kernel(false, false); });
  else if (name == "product overwritten") status = run([] { product_kernel(true, true); });
  else if (name == "matrices") status = run([] { matrices_kernel(false); });
  else if (name == "matrices elsewhere") status = run([] { matrices_kernel(true); });
  else if (name == "flag") status = run([] { flag_kernel(true); }, 4);
  else if (name == "flag untold") status = run([] { flag_kernel(false); }, 4);
  else if (name == "barrier unread") status = run([] { unread_barrier_kernel(); });
  else if (name == "divided warp") status = run([] { divided_warp_kernel(); });
  else if (name == "short barrier") status = run([] { short_barrier_kernel(); });
  else return 2;
  double sum = 0;
  for (const float x : result) sum += x;
  std::printf("%s: %s, fault %u at %u, sum %g\n", name.c_str(), cudaGetErrorString(status), fault.code, fault.detail, sum);
  return status == cudaSuccess ? 0 : 1;
}
