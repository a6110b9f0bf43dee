// From matrices as a checkpoint stores them (row-major, on the device) to pages. Exact: codes are moved, never rounded, but for the router and other binary32
// matrices, which are split into two BF16 parts. Layouts: kernels/pages.h.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/matrix.h"
#include "kernels/pages.h"

namespace kilotoken::stack {

// One row of a packed matrix: a row of one of up to three stored ones; part 1 is what BF16 leaves of a binary32 value.
struct RowSource {
  int16_t matrix;  // -1: zeros
  int16_t part;
  int32_t row;
};

// rows: device, [tiling.tiles * 64]. The rows 0 .. 7, 16 .. 23, ... of a tile must share their scales, and so must the others.
cudaError_t pack_linear(uint8_t* pages, const Tiling& tiling, Format format, const Matrix (&from)[3], const RowSource* rows,
                        cudaStream_t stream);

// gate, up: kMxfp4 [experts * width][k]. refused: device, set to 1 if a scale is 0 or NaN, which pages cannot hold.
cudaError_t pack_up(uint8_t* pages, const Matrix& gate, const Matrix& up, int experts, int page_k, uint32_t* refused, cudaStream_t stream);

// down: kMxfp4 or kE4m3 [experts * hidden][width]. E4M3 up pages are those of pack_linear.
cudaError_t pack_down(uint8_t* units, const Matrix& down, int experts, uint32_t* refused, cudaStream_t stream);

// kBf16 or kF32, `count` elements.
cudaError_t to_float(float* out, const Matrix& from, size_t count, cudaStream_t stream);

}  // namespace kilotoken::stack
