#include "pack.cuh"

#include "core/bf16.h"
#include "core/mxfp4.h"

namespace kilotoken::stack {

namespace {

struct Matrices {
  Matrix of[3];
};

constexpr int kBlock = 256;

dim3 grid_of(size_t threads) { return dim3(static_cast<unsigned>((threads + kBlock - 1) / kBlock)); }

// kE4m3: the scale of (row, k).
__device__ float block_scale(const Matrix& m, int row, int k) {
  const int restart = m.scale_rows > 0 ? m.scale_rows : m.rows;
  const int scale_row = row / restart * ((restart + 127) / 128) + row % restart / 128;
  return static_cast<const float*>(m.scales)[static_cast<size_t>(scale_row) * ((m.cols + 127) / 128) + k / 128];
}

// One thread a 16-byte core-matrix row.
__global__ void pack_linear_kernel(uint8_t* pages, Tiling t, Format format, const __grid_constant__ Matrices from, const RowSource* rows) {
  const size_t chunk = static_cast<size_t>(blockIdx.x) * kBlock + threadIdx.x;
  const size_t page = chunk / (kCodeBytes / 16);
  if (page >= static_cast<size_t>(t.slices) * t.tiles * t.pages) return;
  const int in_page = static_cast<int>(chunk % (kCodeBytes / 16)), column = in_page / kTileRows, row = in_page % kTileRows;
  const int slice = static_cast<int>(page / (static_cast<size_t>(t.tiles) * t.pages));
  const int tile = static_cast<int>(page / t.pages % t.tiles), of_tile = static_cast<int>(page % t.pages);
  const int first_k = (slice * t.pages + of_tile) * page_k(format);
  uint8_t* to = pages + page * page_bytes(format);
  const RowSource source = rows[tile * kTileRows + row];
  const Matrix& m = from.of[source.matrix < 0 ? 0 : source.matrix];
  if (format == Format::kE4m3) {
    const int k = first_k + column * 16;
    uint4 codes = make_uint4(0, 0, 0, 0);
    if (source.matrix >= 0 && k < m.cols)
      codes = *reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(m.codes) + static_cast<size_t>(source.row) * m.cols + k);
    *reinterpret_cast<uint4*>(to + e4m3_offset(row, column * 16)) = codes;
    if (column % 8 == 0 && (row == 0 || row == 8)) {
      float scale = 0.0f;
      if (source.matrix >= 0 && k < m.cols) scale = block_scale(m, source.row, k);
      reinterpret_cast<float*>(to + kCodeBytes)[column / 8 * 2 + row / 8] = scale;
    }
  } else {
    const int k = first_k + column * 8;
    uint16_t codes[8] = {};
    if (source.matrix >= 0) {
      for (int i = 0; i < 8 && k + i < m.cols; ++i) {
        const size_t at = static_cast<size_t>(source.row) * m.cols + k + i;
        if (m.storage == Storage::kBf16) {
          codes[i] = source.part == 0 ? static_cast<const uint16_t*>(m.codes)[at] : 0;
        } else {
          const float x = static_cast<const float*>(m.codes)[at];
          const uint16_t high = float_to_bf16(x);
          codes[i] = source.part == 0 ? high : float_to_bf16(x - bf16_to_float(high));
        }
      }
    }
    *reinterpret_cast<uint4*>(to + bf16_offset(row, column * 8)) = *reinterpret_cast<const uint4*>(codes);
  }
}

__device__ uint8_t code_at(const Matrix& m, size_t row, int k) {
  return mxfp4_nibble(static_cast<const uint8_t*>(m.codes) + row * (m.cols / 2), k);
}

__device__ uint8_t scale_at(const Matrix& m, size_t row, int k, uint32_t* refused) {
  const uint8_t scale = static_cast<const uint8_t*>(m.scales)[row * (m.cols / 32) + k / 32];
  if (scale == 0 || scale == kE8m0Nan) *refused = 1;
  return scale;
}

// One thread a byte of a page.
__global__ void pack_up_kernel(uint8_t* pages, const __grid_constant__ Matrices from, int experts, int width, int page_k,
                               uint32_t* refused) {
  const Matrix &gate = from.of[0], &up = from.of[1];
  const int bytes = up_page_bytes(Storage::kMxfp4, page_k), tiles = width / kUpperHalf, pages_per_tile = gate.cols / page_k;
  const size_t at = static_cast<size_t>(blockIdx.x) * kBlock + threadIdx.x;
  const size_t page = at / bytes;
  if (page >= static_cast<size_t>(experts) * tiles * pages_per_tile) return;
  const int in_page = static_cast<int>(at % bytes), first_k = static_cast<int>(page % pages_per_tile) * page_k;
  const int tile = static_cast<int>(page / pages_per_tile % tiles);
  const size_t first_row = page / pages_per_tile / tiles * width + static_cast<size_t>(tile) * kUpperHalf;
  const int code_bytes = kTileRows * page_k / 2;
  if (in_page < code_bytes) {
    const int half = in_page / (16 * page_k), rest = in_page % (16 * page_k);
    const int step = rest / 2048, warp = rest / 512 % 4, lane = rest / 16 % 32, word = rest / 4 % 4, byte = rest % 4;
    const int k = first_k + half * (page_k / 2) + step * 64 + word * 16 + lane % 4 * 4 + byte;
    const size_t row = first_row + warp * 8 + lane / 4;
    pages[at] = first_bits(code_at(gate, row, k)) | second_bits(code_at(up, row, k));
  } else {
    const int rest = in_page - code_bytes, each = page_k / 64;  // scale bytes of a row's half
    const int half = rest / (kTileRows * each), row = rest / each % kTileRows, k = first_k + half * (page_k / 2) + rest % each * 32;
    pages[at] = scale_at(row % 16 < 8 ? gate : up, first_row + row / 16 * 8 + row % 8, k, refused);
  }
}

// One thread a byte of a unit.
__global__ void pack_down_kernel(uint8_t* units, const __grid_constant__ Matrices from, int experts, uint32_t* refused) {
  const Matrix& down = from.of[0];
  const int hidden = down.rows / experts, tiles = hidden / kTileRows, slices = down.cols / kDownK;
  constexpr int kBytes = down_unit_bytes(Storage::kMxfp4);
  const size_t at = static_cast<size_t>(blockIdx.x) * kBlock + threadIdx.x;
  const size_t unit = at / kBytes;
  if (unit >= static_cast<size_t>(experts) * tiles * slices) return;
  const int in_unit = static_cast<int>(at % kBytes), tile = static_cast<int>(unit % tiles);
  const int first_k = static_cast<int>(unit / tiles % slices) * kDownK;
  const size_t first_row = unit / tiles / slices * hidden + static_cast<size_t>(tile) * kTileRows;
  if (in_unit < 2048) {
    const int half = in_unit / 1024, warp = in_unit / 256 % 4, lane = in_unit / 8 % 32, word = in_unit / 4 % 2, byte = in_unit % 4;
    const int k = first_k + half * 32 + word * 16 + lane % 4 * 4 + byte;
    const size_t row = first_row + warp * 16 + lane / 4;
    units[at] = first_bits(code_at(down, row, k)) | second_bits(code_at(down, row + 8, k));
  } else {
    const int rest = in_unit - 2048, half = rest / 64, warp = rest / 16 % 4, pair = rest / 2 % 8;
    units[at] = scale_at(down, first_row + warp * 16 + pair + rest % 2 * 8, first_k + half * 32, refused);
  }
}

// One thread 16 bytes of a unit.
__global__ void pack_down_e4m3_kernel(uint8_t* units, const __grid_constant__ Matrices from, int experts) {
  const Matrix& down = from.of[0];
  const int hidden = down.rows / experts, tiles = hidden / kTileRows, slices = down.cols / kDownK;
  constexpr int kChunks = down_unit_bytes(Storage::kE4m3) / 16, kCodes = down_code_bytes(Storage::kE4m3) / 16;
  const size_t chunk = static_cast<size_t>(blockIdx.x) * kBlock + threadIdx.x;
  const size_t unit = chunk / kChunks;
  if (unit >= static_cast<size_t>(experts) * tiles * slices) return;
  const int in_unit = static_cast<int>(chunk % kChunks), column = in_unit / kTileRows, tile = static_cast<int>(unit % tiles);
  const int first_k = static_cast<int>(unit / tiles % slices) * kDownK;
  const int first_row = static_cast<int>(unit / tiles / slices) * hidden + tile * kTileRows;
  uint4 out = make_uint4(0, 0, 0, 0);
  if (in_unit < kCodes) {
    const size_t row = static_cast<size_t>(first_row) + in_unit % kTileRows;
    out = *reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(down.codes) + row * down.cols + first_k + column * 16);
  } else if (in_unit == kCodes) {
    out.x = __float_as_uint(block_scale(down, first_row, first_k));
  }
  reinterpret_cast<uint4*>(units)[chunk] = out;
}

__global__ void to_float_kernel(float* out, const __grid_constant__ Matrices from, size_t count) {
  const size_t i = static_cast<size_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= count) return;
  const Matrix& m = from.of[0];
  out[i] = m.storage == Storage::kBf16 ? bf16_to_float(static_cast<const uint16_t*>(m.codes)[i]) : static_cast<const float*>(m.codes)[i];
}

}  // namespace

cudaError_t pack_linear(uint8_t* pages, const Tiling& tiling, Format format, const Matrix (&from)[3], const RowSource* rows,
                        cudaStream_t stream) {
  const size_t chunks = static_cast<size_t>(tiling.slices) * tiling.tiles * tiling.pages * (kCodeBytes / 16);
  pack_linear_kernel<<<grid_of(chunks), kBlock, 0, stream>>>(pages, tiling, format, Matrices{{from[0], from[1], from[2]}}, rows);
  return cudaGetLastError();
}

cudaError_t pack_up(uint8_t* pages, const Matrix& gate, const Matrix& up, int experts, int page_k, uint32_t* refused,
                    cudaStream_t stream) {
  const int width = gate.rows / experts;
  const size_t bytes = static_cast<size_t>(experts) * (width / kUpperHalf) * (gate.cols / page_k) * up_page_bytes(Storage::kMxfp4, page_k);
  pack_up_kernel<<<grid_of(bytes), kBlock, 0, stream>>>(pages, Matrices{{gate, up, {}}}, experts, width, page_k, refused);
  return cudaGetLastError();
}

cudaError_t pack_down(uint8_t* units, const Matrix& down, int experts, uint32_t* refused, cudaStream_t stream) {
  const size_t bytes = static_cast<size_t>(down.rows) / kTileRows * (down.cols / kDownK) * down_unit_bytes(down.storage);
  if (down.storage == Storage::kE4m3) pack_down_e4m3_kernel<<<grid_of(bytes / 16), kBlock, 0, stream>>>(units, Matrices{{down, {}, {}}}, experts);
  else pack_down_kernel<<<grid_of(bytes), kBlock, 0, stream>>>(units, Matrices{{down, {}, {}}}, experts, refused);
  return cudaGetLastError();
}

cudaError_t to_float(float* out, const Matrix& from, size_t count, cudaStream_t stream) {
  to_float_kernel<<<grid_of(count), kBlock, 0, stream>>>(out, Matrices{{from, {}, {}}}, count);
  return cudaGetLastError();
}

}  // namespace kilotoken::stack
