// Rotary position embedding, NeoX form: dimension i of the first `rotary_dim` is paired with i + rotary_dim / 2 and the pair is
// turned by position * theta^(-2i / rotary_dim); the other dimensions carry no position. Angles, sines and cosines are computed
// in double and rounded once. Source: Su et al., "RoFormer", 2021, equation 34; pairing as in GPT-NeoX.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace kilotoken {

struct RopeRow {
  std::vector<float> cosine, sine;  // [rotary_dim / 2]
};

class Rope {
 public:
  Rope(double theta, size_t rotary_dim) : theta_(theta), rotary_dim_(rotary_dim), frequency_(rotary_dim / 2) {
    for (size_t i = 0; i < frequency_.size(); ++i)
      frequency_[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
  }

  bool is(double theta, size_t rotary_dim) const { return theta == theta_ && rotary_dim == rotary_dim_; }

  // The turns of `rows` consecutive positions.
  void turns(size_t first_position, size_t rows, std::vector<RopeRow>& out) const {
    out.resize(rows);
    for (size_t r = 0; r < rows; ++r) {
      out[r].cosine.resize(frequency_.size());
      out[r].sine.resize(frequency_.size());
      for (size_t i = 0; i < frequency_.size(); ++i) {
        const double angle = static_cast<double>(first_position + r) * frequency_[i];
        out[r].cosine[i] = static_cast<float>(std::cos(angle));
        out[r].sine[i] = static_cast<float>(std::sin(angle));
      }
    }
  }

 private:
  double theta_;
  size_t rotary_dim_;
  std::vector<double> frequency_;  // [rotary_dim / 2], radians a position
};

// head: [head_dim], turned in place.
inline void rope(const RopeRow& row, float* head) {
  const size_t half = row.cosine.size();
  for (size_t i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    head[i] = a * row.cosine[i] - b * row.sine[i];
    head[i + half] = b * row.cosine[i] + a * row.sine[i];
  }
}

}  // namespace kilotoken
