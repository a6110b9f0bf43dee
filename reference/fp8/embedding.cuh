// Token id to residual stream: one row of the embedding table, widened to binary32.
#pragma once

#include "linear.cuh"

namespace kilotoken::fp8 {

template <Format F>
__global__ void embedding_kernel(LinearView table, const int32_t* ids, float* x) {
  const uint32_t c = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (c < table.cols) x[static_cast<size_t>(row) * table.cols + c] = weight_at<F>(table, 0, static_cast<uint32_t>(ids[row]), c);
}

// ids: [rows], each below table.rows; x: [rows][table.cols].
inline void embedding(const Linear& table, const int32_t* ids, size_t rows, float* x, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((table.cols + 127) / 128), static_cast<unsigned>(rows));
  if (table.format == Format::kF32) embedding_kernel<Format::kF32><<<grid, 128, 0, stream>>>(view(table), ids, x);
  else embedding_kernel<Format::kBf16><<<grid, 128, 0, stream>>>(view(table), ids, x);
  check(cudaGetLastError(), "launching the embedding");
}

}  // namespace kilotoken::fp8
