#include "expected.h"

#include <cmath>

#include "core/bf16.h"
#include "core/e2m1.h"
#include "core/e4m3.h"
#include "core/e8m0.h"
#include "weights.h"

namespace kilotoken::bench {

namespace {

using stack::Tensor;

double mxfp4_value(Tensor tensor, int layer, uint64_t row, int k, int cols) {
  const uint8_t byte = mxfp4_at(stream_of(tensor, layer), row * (cols / 2) + k / 2);
  const uint8_t scale = e8m0_at(stream_of(tensor, layer, true), row * (cols / 32) + k / 32);
  return static_cast<double>(e2m1_to_float(k % 2 == 0 ? byte & 15 : byte >> 4)) * e8m0_to_float(scale);
}

}  // namespace

std::vector<Sum> linear_row(Tensor tensor, int layer, Stored stored, int row, const HostInputs& x) {
  const Stream codes = stream_of(tensor, layer), scales = stream_of(tensor, layer, true);
  std::vector<Sum> sums(x.rows.size());
  for (int k = 0; k < x.k; ++k) {
    const uint64_t place = static_cast<uint64_t>(row) * x.k + k;
    double w = 0;
    switch (stored) {
      case Stored::kE4m3:
        w = static_cast<double>(e4m3_to_float(e4m3_at(codes, place))) * scale_at(scales, static_cast<uint64_t>(row / 128) * ((x.k + 127) / 128) + k / 128);
        break;
      case Stored::kBf16: w = bf16_to_float(bf16_at(codes, place)); break;
      case Stored::kF32: w = f32_at(codes, place); break;
    }
    for (size_t i = 0; i < sums.size(); ++i) sums[i].add(w * x.rows[i][k]);
  }
  return sums;
}

std::vector<Sum> expert_inner(int layer, int expert, int index, const HostInputs& x) {
  const uint64_t row = static_cast<uint64_t>(expert) * kExpertWidth + index;
  std::vector<Sum> gate(x.rows.size()), up(x.rows.size()), out(x.rows.size());
  for (int k = 0; k < x.k; ++k) {
    const double g = mxfp4_value(Tensor::kGate, layer, row, k, x.k), u = mxfp4_value(Tensor::kUp, layer, row, k, x.k);
    for (size_t i = 0; i < gate.size(); ++i) gate[i].add(g * x.rows[i][k]), up[i].add(u * x.rows[i][k]);
  }
  constexpr double kSteepest = 1.1;  // of silu
  for (size_t i = 0; i < gate.size(); ++i) {
    const double silu = gate[i].value / (1 + std::exp(-gate[i].value));
    out[i].value = silu * up[i].value;
    out[i].magnitude = kSteepest * gate[i].magnitude * std::abs(up[i].value) + std::abs(silu) * up[i].magnitude;
  }
  return out;
}

double expert_down(int layer, int expert, int row, int k) {
  return mxfp4_value(Tensor::kDown, layer, static_cast<uint64_t>(expert) * kHidden + row, k, kExpertWidth);
}

}  // namespace kilotoken::bench
