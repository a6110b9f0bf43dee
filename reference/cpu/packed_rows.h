// Input rows in the order in which the linear's inner loop reads them. Rows are cut into tiles of 8, the last one shorter; in a tile the
// rows' next sixteen columns lie side by side, [columns / 16][rows of the tile][16], columns padded with zeros. So a tile is
// one stream from one pointer, and a row's place in it has no bearing on its sums.
#pragma once

#include <cstddef>
#include <cstring>

#include "core/lanes.h"

namespace kilotoken {

inline constexpr size_t kPackedTile = 8;

// Rows of the tile that begins where `left` rows are left.
inline size_t tile_rows(size_t left) { return left < kPackedTile ? left : kPackedTile; }

inline size_t padded_columns(size_t cols) { return (cols + kLanes - 1) / kLanes * kLanes; }

// row_of(r): pointer to row r, [cols]. packed: [rows][padded_columns(cols)].
template <class RowOf>
inline void pack_rows(size_t rows, size_t cols, RowOf row_of, float* packed) {
  const size_t padded = padded_columns(cols);
  for (size_t r = 0, tile = 0; r < rows; r += tile) {
    tile = tile_rows(rows - r);
    for (size_t i = 0; i < tile; ++i) {
      const float* from = row_of(r + i);
      float* to = packed + r * padded + i * kLanes;
      size_t c = 0;
      for (; c + kLanes <= cols; c += kLanes, to += tile * kLanes) std::memcpy(to, from + c, kLanes * sizeof(float));
      if (c == cols) continue;
      std::memset(to, 0, kLanes * sizeof(float));
      std::memcpy(to, from + c, (cols - c) * sizeof(float));
    }
  }
}

}  // namespace kilotoken
