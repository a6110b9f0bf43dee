#include "synthetic_fill.h"

namespace kilotoken::fp8 {

namespace {

// A thread sixteen bytes at a time. It walks the shard in steps of the whole grid, as (row, block of the row), without a division.
__global__ void synthetic_blocks_kernel(uint64_t seed, SyntheticTensor t, uint4* out) {
  const uint32_t row_blocks = t.bytes / 16, whole_row_blocks = t.whole_bytes / 16, first_block = t.first_byte / 16;
  const uint32_t rows = t.groups * t.rows, threads = gridDim.x * blockDim.x, thread = blockIdx.x * blockDim.x + threadIdx.x;
  const uint32_t down = threads / row_blocks, across = threads % row_blocks;
  uint32_t row = thread / row_blocks, column = thread % row_blocks;
  while (row < rows) {
    const uint32_t group = t.groups == 1 ? 0 : row / t.rows;
    const uint32_t whole_row = group * t.whole_rows + t.first_row + (row - group * t.rows);
    const PhiloxWords w = synthetic_block(seed, t, whole_row * whole_row_blocks + first_block + column);
    out[static_cast<uint64_t>(row) * row_blocks + column] = make_uint4(w.x[0], w.x[1], w.x[2], w.x[3]);
    row += down;
    column += across;
    if (column >= row_blocks) column -= row_blocks, ++row;
  }
}

// A thread a word, where the shard cuts blocks.
__global__ void synthetic_words_kernel(uint64_t seed, SyntheticTensor t, uint32_t* out) {
  const uint64_t words = t.size() / 4, threads = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words; i += threads) out[i] = synthetic_word(seed, t, i);
}

}  // namespace

void synthetic_fill(uint64_t seed, const SyntheticTensor& t, void* out, cudaStream_t stream) {
  constexpr unsigned kBlocks = 132 * 16;
  if (t.blockwise()) {
    synthetic_blocks_kernel<<<kBlocks, 256, 0, stream>>>(seed, t, static_cast<uint4*>(out));
  } else {
    synthetic_words_kernel<<<kBlocks, 256, 0, stream>>>(seed, t, static_cast<uint32_t*>(out));
  }
  check(cudaGetLastError(), "making synthetic weights");
}

}  // namespace kilotoken::fp8
