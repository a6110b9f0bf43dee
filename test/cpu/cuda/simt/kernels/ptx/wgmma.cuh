// The wrappers of kernels/ptx/wgmma.cuh on the machine in software.
#pragma once

#include <cstdint>

#include "kernels/ptx/memory.cuh"

namespace kilotoken::ptx {

struct Operand {
  uint32_t low, high;
  Operand operator+(uint32_t bytes) const { return {low + (bytes >> 4), high}; }
};
inline Operand operand(uint32_t shared, uint32_t along_k, uint32_t along_rows) { return {shared >> 4 | (along_k >> 4) << 16, along_rows >> 4}; }
inline Operand uniform_operand(uint32_t shared, uint32_t along_k, uint32_t along_rows) {
  const Operand mine = operand(shared, along_k, along_rows);
  return {__shfl_sync(~0u, mine.low, 0), mine.high};
}
inline uint64_t descriptor(Operand o) { return static_cast<uint64_t>(o.high) << 32 | o.low; }

inline void products_begin() {}
inline void products_commit() { simt::commit(); }
template <int kPending>
void products_wait() { simt::wait_products(kPending); }

inline void product_e4m3(float (&d)[4], const uint32_t (&a)[4], Operand b) {
  simt::issue({simt::Product::kE4m3Registers, false, 8, d, {a[0], a[1], a[2], a[3]}, 0, descriptor(b)});
}
inline void product_e4m3(float (&d)[4], Operand a, Operand b) { simt::issue({simt::Product::kE4m3, false, 8, d, {}, descriptor(a), descriptor(b)}); }
template <bool kAdd>
void product_bf16(float (&d)[8], Operand a, Operand b) { simt::issue({simt::Product::kBf16, kAdd, 16, d, {}, descriptor(a), descriptor(b)}); }

}  // namespace kilotoken::ptx
