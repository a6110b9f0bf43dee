// The wrappers of kernels/ptx/wgmma.cuh on the machine in software.
#pragma once

#include <cstdint>

#include "kernels/ptx/memory.cuh"

namespace kilotoken::ptx {

inline uint64_t descriptor(uint32_t shared, uint32_t along_k, uint32_t along_rows) {
  return static_cast<uint64_t>(shared >> 4) | static_cast<uint64_t>(along_k >> 4) << 16 | static_cast<uint64_t>(along_rows >> 4) << 32;
}

inline void products_begin() {}
inline void products_commit() { simt::commit(); }
template <int kPending>
void products_wait() { simt::wait_products(kPending); }

inline void product_e4m3(float (&d)[4], const uint32_t (&a)[4], uint64_t b) {
  simt::issue({simt::Product::kE4m3Registers, false, 8, d, {a[0], a[1], a[2], a[3]}, 0, b});
}
inline void product_e4m3(float (&d)[4], uint64_t a, uint64_t b) { simt::issue({simt::Product::kE4m3, false, 8, d, {}, a, b}); }
template <bool kAdd>
void product_bf16(float (&d)[4], uint64_t a, uint64_t b) { simt::issue({simt::Product::kBf16, kAdd, 8, d, {}, a, b}); }

}  // namespace kilotoken::ptx
