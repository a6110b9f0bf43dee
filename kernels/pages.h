// Where each weight lies. Matrices are cut into tiles of 64 output rows and pages of a few hundred columns; a page is the exact image that
// one bulk copy brings into shared memory. Nothing else in the repository knows these layouts.
//
// E4M3 page: 64 rows x 256 k, as core matrices [k / 16][64 rows][16 bytes], then binary32 scales [k / 128][2]: of the first and of the
//   second eight rows of every sixteen (they differ where gate and up rows alternate).                                  16,512 bytes
// BF16 page: 64 rows x 128 k, as [k / 8][64 rows][16 bytes].                                                            16,384 bytes
// Pages of a linear are stored [slice of k][tile][page of the slice], so that a block's share is one contiguous range.
//
// MXFP4 "up" page: 64 rows (gate and up by turns of eight) x 256 or 512 k; each warpgroup has one half of k. First the
// codes as wgmma register fragments [half][k / 64][warp][lane][16 bytes], then the scales [half][64 rows][k / 32].
//   An expert's tiles lie [tile][page].
// MXFP4 "down" unit: 64 rows x 64 k; [half of 32 k][warp][lane][8 bytes], then the scales [half][warp][8][2 rows].      2,176 bytes
//   Units of an expert lie [slice of 64 k][tile].
//
// E4M3 "up" page: an E4M3 page of such rows. An expert's tiles lie [tile][page].
// E4M3 "down" unit: 64 rows x 64 k as core matrices [k / 16][64 rows][16 bytes], then the unit's binary32 scale and padding; stored in the same order. 4,224 bytes
//
// A byte of MXFP4 codes holds two elements so that five operations make eight E4M3 codes of them, each 2^-6 of its value: one has
// sign, e1 e0 m on bits 7, 4 3 2; the other sign on bit 5, e1 on bit 6, e0 m on bits 1 0. The first belongs to row g, the second to row g + 8.
// Source: the fragment maps of PTX ISA 9.0, "wgmma.mma_async.m64nNk32", A in registers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/hd.h"
#include "matrix.h"
#include "shapes.h"

namespace kilotoken::stack {

enum class Format : uint32_t { kE4m3, kBf16 };

inline constexpr int kE4m3PageK = 256, kE4m3PageBytes = 16512;
inline constexpr int kBf16PageK = 128, kBf16PageBytes = 16384;
inline constexpr int kCodeBytes = 16384;  // of a page of either format, before the scales

KT_HD constexpr int page_k(Format format) { return format == Format::kE4m3 ? kE4m3PageK : kBf16PageK; }
KT_HD constexpr int page_bytes(Format format) { return format == Format::kE4m3 ? kE4m3PageBytes : kBf16PageBytes; }
// Of experts, by how they are stored: kMxfp4 or kE4m3.
KT_HD constexpr int up_page_bytes(Storage experts, int k) { return experts == Storage::kE4m3 ? kE4m3PageBytes : 64 * k / 2 + 64 * k / 32; }
KT_HD constexpr int down_code_bytes(Storage experts) { return experts == Storage::kE4m3 ? 4096 : 2048; }
KT_HD constexpr int down_unit_bytes(Storage experts) { return down_code_bytes(experts) + 128; }
// What the codes of the products have to be multiplied by.
KT_HD constexpr float code_unit(Storage experts) { return experts == Storage::kE4m3 ? 1.0f : 64.0f; }
// Experts whose `units` units of a block share a ring page.
KT_HD constexpr int down_experts_per_page(Storage experts, int units) {
  const int most = experts == Storage::kE4m3 ? 4 : 8;
  return units == 1 ? most : units == 2 ? most / 2 : most / 4;
}

// Division by a number that the host knows: an integer division takes a lone warp longer than a trip to the L2. Exact for numerators below 2^31.
struct Divisor {
  uint32_t magic, shift;
};
inline Divisor divisor(uint32_t by) {
  uint32_t bits = 0;
  while ((uint64_t{1} << bits) < by) ++bits;
  return {static_cast<uint32_t>((uint64_t{1} << (31 + bits)) / by + 1), bits};
}
// Of twice the numerator only the upper half of the product is needed: one instruction for it and one for the shift.
KT_HD inline int operator/(int n, const Divisor& by) {
  return static_cast<int>(static_cast<uint32_t>(static_cast<uint64_t>(static_cast<uint32_t>(n) * 2u) * by.magic >> 32) >> by.shift);
}

// One matrix: `rows` and `k` padded up to whole tiles and pages by zeros.
struct Tiling {
  int tiles;   // of 64 rows
  int slices;  // equal parts of k, each short enough for the input buffer
  int pages;   // of one tile in one slice; 0: a unit is one piece (below), whoever makes it
  int blocks;  // that share the pages, one consecutive range each; never more than there are pages
  int most;    // pieces of a unit
  Divisor by_all, by_slice, by_pages, by_blocks;  // all pages, those of a slice, those of a unit, blocks
};

// --- bytes within a page, for whoever packs; offsets of element (row, k), row in 0 .. 63

KT_HD constexpr int e4m3_offset(int row, int k) { return (k / 16) * 1024 + row * 16 + k % 16; }
KT_HD constexpr int bf16_offset(int row, int k) { return (k / 8) * 1024 + row * 16 + (k % 8) * 2; }

// An MXFP4 element's byte, and whether it is the second of the byte's two.
struct Nibble {
  int byte;
  bool second;
};

// k of the page, `width` the page's k.
KT_HD constexpr Nibble up_nibble(int row, int k, int width) {
  const int half = k / (width / 2), in_half = k % (width / 2);
  const int step = in_half / 64, in_step = in_half % 64;
  const int warp = row / 16, lane = (row % 8) * 4 + (in_step % 16) / 4;
  const int word = in_step / 16;  // 0 .. 3: of the lane's 16 bytes
  return {((half * (width / 128) + step) * 4 + warp) * 512 + lane * 16 + word * 4 + in_step % 4, row % 16 >= 8};
}
KT_HD constexpr int up_scale_offset(int row, int k, int width) {
  const int half = k / (width / 2), in_half = k % (width / 2);
  return 64 * width / 2 + (half * 64 + row) * (width / 64) + in_half / 32;
}
KT_HD constexpr Nibble down_nibble(int row, int k) {
  const int half = k / 32, in_half = k % 32;
  const int warp = row / 16, lane = (row % 8) * 4 + (in_half % 16) / 4;
  return {(half * 4 + warp) * 256 + lane * 8 + (in_half / 16) * 4 + in_half % 4, row % 16 >= 8};
}
KT_HD constexpr int down_scale_offset(int row, int k) {
  return 2048 + (k / 32) * 64 + (row / 16) * 16 + (row % 8) * 2 + (row % 16) / 8;
}

// E2M1 code -> its bits in a byte.
KT_HD constexpr uint8_t first_bits(uint8_t code) { return static_cast<uint8_t>((code & 8) << 4 | (code & 7) << 2); }
KT_HD constexpr uint8_t second_bits(uint8_t code) {
  return static_cast<uint8_t>((code & 8) << 2 | (code & 4) << 4 | (code & 3));
}

// --- caches and queries as attention over the cache reads them (ops/attention_cache.cuh). Layers with a short window keep rows in order (ops/attention_window.cuh).

// A row of keys or values is BF16; 16 bytes j of it lie at j ^ (position % 8), so that eight rows spread over all banks of shared memory.
KT_HD constexpr int cache_chunk(int position, int chunk) { return chunk ^ (position & 7); }
// Element `d` (a pair lies together) of a row.
KT_HD constexpr int cache_element(int position, int d) { return cache_chunk(position, d / 8) * 8 + d % 8; }

// Keys of a chunk for a row whose last visible position is `last`. A function of the row's own position, so that a row's sums are cut in the same places whoever
// is with it; chunks lie at absolute positions.
KT_HD constexpr int chunk_keys(int last, int window) { return kKeyBlock * (1 + (window > 0 && window < last ? window : last) / kChunkSpan); }
// How many chunks partial results have room for, in a context of `positions`.
KT_HD constexpr int chunk_places(int positions) { return (positions - 1) / kKeyBlock + 1 < kMostChunks ? (positions - 1) / kKeyBlock + 1 : kMostChunks; }

// Query heads of a key/value head in groups of sixteen, the last one with what is left.
KT_HD constexpr int groups_of_kv(int q_heads, int kv_heads) { return (q_heads / kv_heads + kGroupHeads - 1) / kGroupHeads; }
KT_HD constexpr size_t query_elements(int q_heads, int kv_heads, int head_dim) {
  return static_cast<size_t>(kv_heads) * groups_of_kv(q_heads, kv_heads) * 2 * kRows * kGroupHeads * head_dim;
}
// Of a pair of dimensions d, d + 1 of head `head` of a group: BF16 [group][high, low][row] of mma.m16n8k16 fragments [k / 16][lane][8 elements], a row of the matrix a head.
KT_HD constexpr size_t query_index(int group, int part, int row, int head, int d, int head_dim) {
  return (static_cast<size_t>(group * 2 + part) * kRows + row) * kGroupHeads * head_dim + (d / 16 * 32 + head % 8 * 4 + d % 8 / 2) * 8 + (d / 8 % 2 * 2 + head / 8) * 2;
}

// --- who does what in the up products. Tiles of the chosen experts, in the order of ranks, are made in rounds of one a block; those that would leave blocks without one come
// first and are dealt out evenly by segments, thirds of k. A segment is always summed by itself, so what becomes of a tile does not depend on who makes it.

inline constexpr int kSegments = 3;
inline constexpr int kMostCut = kSegments - 1;  // of a tile that the block does not finish
KT_HD constexpr int segments_of(int pages_of_tile) { return pages_of_tile % kSegments == 0 ? kSegments : 1; }
// Of `tiles`, made before the last round: the experts of these are complete while the last round still goes on.
KT_HD constexpr int early_tiles(int tiles, int blocks) { return tiles < blocks ? 0 : tiles - blocks; }

// --- inputs of a step in global memory, as the matrix products read them: 8 rows, 16 bytes of k each

KT_HD constexpr int e4m3_input_offset(int row, int k) { return (k / 16) * 128 + row * 16 + k % 16; }
KT_HD constexpr int bf16_input_index(int row, int k) { return (k / 8) * 64 + row * 8 + k % 8; }  // of 2-byte elements

// h of one 64-k slice of one expert: codes, then scales [2 of 32 k][8 rows] (binary32, times code_unit and the router's weight).
inline constexpr int kDownInputBytes = 64 * kRows + 2 * kRows * 4;
KT_HD constexpr int down_input_offset(int row, int k) { return (k / 16) * 128 + row * 16 + k % 16; }

// --- the cache of values of layers with a short window: sixteen bytes `j` of the row at `position` lie at this place, so that eight rows spread over all banks
KT_HD constexpr int window_chunk(int position, int j) { return j ^ (position & 7); }

// --- who does what in a linear: pages in the order [slice][tile][page] are dealt out evenly, so a unit (one tile over one slice of k) can be
// summed by several blocks, a piece each

struct Share {
  int begin, end;  // pages
};

KT_HD constexpr int all_pages(const Tiling& t) { return t.tiles * t.slices * t.pages; }

KT_HD inline Share share_of(const Tiling& t, int block) {
  const int all = all_pages(t);
  return block < t.blocks ? Share{block * all / t.by_blocks, (block + 1) * all / t.by_blocks} : Share{all, all};
}
KT_HD inline int owner_of(const Tiling& t, int page) { return ((page + 1) * t.blocks - 1) / t.by_all; }

// A part: binary32 [8 rows of the step][64 rows of the tile], the sum of a piece. The piece of `unit` that `block` makes lies at place unit + block; the
// pieces of a unit are neighbours, in the order of k.
inline constexpr int kPartFloats = kRows * kTileRows;
inline constexpr int kMostPieces = 4;  // of a unit whose readers take all at once

struct Pieces {
  int first, count;
};
KT_HD inline Pieces pieces_of(const Tiling& t, int unit) {
  if (t.pages == 0) return {unit, 1};
  const int from = owner_of(t, unit * t.pages), to = owner_of(t, unit * t.pages + t.pages - 1);
  return {unit + from, to - from + 1};
}
KT_HD constexpr int part_places(const Tiling& t) { return t.tiles * t.slices + (t.pages == 0 ? 0 : t.blocks - 1); }

}  // namespace kilotoken::stack
