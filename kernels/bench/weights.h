// Weights of the benches: every byte a function of (tensor, layer, place), so that any row can be computed again on the host. Magnitudes lie within a
// few binades, so that a missing or doubled term of a sum shows. Shapes are those of one rank of eight of the 1.02 T shape.
#pragma once

#include <cstdint>
#include <memory>

#include "core/hd.h"
#include "kernels/stack.h"

namespace kilotoken::bench {

// One stream of words a tensor.
struct Stream {
  uint64_t key;
};
KT_HD constexpr Stream stream_of(stack::Tensor tensor, int layer, bool scales = false) {
  return {(static_cast<uint64_t>(tensor) << 33 | static_cast<uint64_t>(layer) << 1 | (scales ? 1u : 0u)) * 0x9e3779b97f4a7c15ull};
}

// Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
KT_HD constexpr uint32_t word_of(Stream stream, uint64_t place) {
  uint64_t x = stream.key + (place + 1) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>((x ^ (x >> 31)) >> 32);
}

// E4M3: a sign and one of 32 magnitudes from 0.25 to 3.75.
KT_HD constexpr uint8_t e4m3_at(Stream s, uint64_t place) {
  const uint32_t w = word_of(s, place);
  return static_cast<uint8_t>((w & 0x80u) | (0x28u + (w & 0x1fu)));
}
// BF16: a sign and a magnitude from 2^-5 to 2^-1.
KT_HD constexpr uint16_t bf16_at(Stream s, uint64_t place) {
  const uint32_t w = word_of(s, place);
  return static_cast<uint16_t>((w & 0x8000u) | (0x3d00u + (w & 0x1ffu)));
}
// Two E2M1 codes.
KT_HD constexpr uint8_t mxfp4_at(Stream s, uint64_t place) { return static_cast<uint8_t>(word_of(s, place)); }
// E8M0: 2^-9 to 2^-6.
KT_HD constexpr uint8_t e8m0_at(Stream s, uint64_t place) { return static_cast<uint8_t>(118u + (word_of(s, place) & 3u)); }
// Binary32, signed, magnitude 2^-6 to 2^-4, all 24 bits in use.
KT_HD constexpr float f32_at(Stream s, uint64_t place) {
  const uint32_t w = word_of(s, place);
  const float x = (1.0f + static_cast<float>(w & 0x7fffffu) * 0x1p-23f) * ((w & 0x1000000u) != 0 ? 0x1p-5f : 0x1p-6f);
  return (w & 0x80000000u) != 0 ? -x : x;
}
// Binary32, a positive scale of 128 x 128 weights.
KT_HD constexpr float scale_at(Stream s, uint64_t place) { return (1.0f + static_cast<float>(word_of(s, place) & 0xffffu) * 0x1p-16f) * 0x1p-7f; }

inline constexpr int kHidden = 6144, kQkvRows = 3392, kOInputs = 2048, kDenseWidth = 2048, kExperts = 384, kExpertWidth = 256, kVocab = 19072;

// `layers` layers, all with dense feed-forward and FP8 throughout, or all mixtures with a BF16 output projection and a binary32 router.
stack::TargetShape bench_shape(int layers, bool mixture);
std::unique_ptr<stack::WeightSource> bench_source(bool mixture);

}  // namespace kilotoken::bench
