#include "synthetic_fill.h"

namespace kilotoken::fp8 {

namespace {

// A block a stored row; a thread sixteen bytes, or four where the shard cuts blocks.
__global__ void synthetic_blocks_kernel(uint64_t seed, SyntheticTensor t, uint4* out) {
  const uint32_t blocks = t.bytes / 16;
  const uint64_t rows = static_cast<uint64_t>(t.groups) * t.rows;
  for (uint64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const uint32_t first = t.whole_word(row * (t.bytes / 4)) / 4;
    for (uint32_t i = threadIdx.x; i < blocks; i += blockDim.x) {
      const PhiloxWords w = synthetic_block(seed, t, first + i);
      out[row * blocks + i] = make_uint4(w.x[0], w.x[1], w.x[2], w.x[3]);
    }
  }
}

__global__ void synthetic_words_kernel(uint64_t seed, SyntheticTensor t, uint32_t* out) {
  const uint64_t words = t.size() / 4, threads = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words; i += threads) out[i] = synthetic_word(seed, t, i);
}

}  // namespace

void synthetic_fill(uint64_t seed, const SyntheticTensor& t, void* out, cudaStream_t stream) {
  constexpr unsigned kBlocks = 132 * 16;
  if (t.blockwise()) {
    const unsigned threads = t.bytes / 16 < 256 ? (t.bytes / 16 + 31) / 32 * 32 : 256;
    synthetic_blocks_kernel<<<kBlocks, threads, 0, stream>>>(seed, t, static_cast<uint4*>(out));
  } else {
    synthetic_words_kernel<<<kBlocks, 256, 0, stream>>>(seed, t, static_cast<uint32_t*>(out));
  }
  check(cudaGetLastError(), "making synthetic weights");
}

}  // namespace kilotoken::fp8
