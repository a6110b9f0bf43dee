// The wrappers of kernels/ptx/warp.cuh on the machine in software.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/bf16.h"
#include "core/e4m3.h"
#include "kernels/ptx/memory.cuh"

namespace kilotoken::ptx {

inline void product_16x8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  struct Lane {
    uint32_t a[4], b[2];
    float* d;
  } mine{{a0, a1, a2, a3}, {b0, b1}, d};
  simt::warp("mma.m16n8k16", &mine, [](void* const(&of)[32]) {
    double a[16][16], b[8][16];
    for (int lane = 0; lane < 32; ++lane) {
      const Lane& x = *static_cast<Lane*>(of[lane]);
      const int group = lane / 4, part = lane % 4;
      for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 4; ++i) a[group + i % 2 * 8][i / 2 * 8 + part * 2 + half] = bf16_to_float(static_cast<uint16_t>(x.a[i] >> 16 * half));
        for (int i = 0; i < 2; ++i) b[group][i * 8 + part * 2 + half] = bf16_to_float(static_cast<uint16_t>(x.b[i] >> 16 * half));
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      float* const out = static_cast<Lane*>(of[lane])->d;
      for (int i = 0; i < 4; ++i) {
        double sum = out[i];
        for (int k = 0; k < 16; ++k) sum += a[lane / 4 + i / 2 * 8][k] * b[lane % 4 * 2 + i % 2][k];
        out[i] = static_cast<float>(sum);
      }
    }
  });
}

// Element `i` of a lane's word: of row lane / 4 as they are, of row lane % 4 * 2 + i transposed.
inline void load_matrices(const char* what, uint32_t (&a)[4], uint32_t row, bool transposed) {
  struct Lane {
    const uint16_t* row;
    uint32_t* a;
  } mine{static_cast<const uint16_t*>(simt::shared_pointer(row)), a};
  simt::warp(what, &mine, [transposed](void* const(&of)[32]) {
    for (int matrix = 0; matrix < 4; ++matrix)
      for (int lane = 0; lane < 32; ++lane) {
        const auto element = [&](int i) {
          const int pair = lane % 4 * 2 + i, row = transposed ? pair : lane / 4, column = transposed ? lane / 4 : pair;
          return static_cast<uint32_t>(static_cast<Lane*>(of[matrix * 8 + row])->row[column]);
        };
        static_cast<Lane*>(of[lane])->a[matrix] = element(0) | element(1) << 16;
      }
  });
}
inline void load_rows(uint32_t (&a)[4], uint32_t row) { load_matrices("ldmatrix.x4", a, row, false); }
inline void load_columns(uint32_t (&a)[4], uint32_t row) { load_matrices("ldmatrix.x4.trans", a, row, true); }
inline void load_transposed(uint32_t (&a)[4], const void* row) { load_columns(a, shared_address(row)); }

inline void copy_16(void* to, const void* from, bool valid) { simt::copy_when_waited(to, from, valid ? 16 : 0); }
inline void copies_commit() { simt::commit_copies(); }
template <int kPending>
void copies_wait() { simt::wait_copies(kPending); }

inline uint16_t e4m3_pair(float x, float y) {
  return static_cast<uint16_t>(float_to_e4m3(x) | float_to_e4m3(y) << 8);
}
inline uint16_t bf16_of(float x) { return float_to_bf16(x); }

inline uint32_t bf16_pair(float x, float y) { return static_cast<uint32_t>(float_to_bf16(x)) | static_cast<uint32_t>(float_to_bf16(y)) << 16; }
inline float exp2_of(float x) { return std::exp2(x); }
inline uint32_t this_thread() { return threadIdx.x; }
inline uint32_t passing(uint32_t x) { return x; }

}  // namespace kilotoken::ptx
