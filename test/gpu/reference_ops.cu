// Every op of reference/fp8 alone, on the GPU, against a computation in double on the CPU. The bound of a sum is that of its own order: with
// n rounded steps from an element to the result, |error| <= n 2^-24 / (1 - n 2^-24) * sum |terms| (Higham, "Accuracy and Stability of
// Numerical Algorithms", section 3.1); n is counted per op below. Memory around every array is poisoned with NaN.
// Prints one line an op. Arguments: none.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "core/e8m0.h"
#include "core/mxfp4.h"
#include "reference/fp8/attention.cuh"
#include "reference/fp8/elementwise.cuh"
#include "reference/fp8/embedding.cuh"
#include "reference/fp8/linear.cuh"
#include "reference/fp8/quantise_activation.cuh"
#include "reference/fp8/rmsnorm.cuh"
#include "reference/fp8/rope_cache.cuh"
#include "reference/fp8/router.cuh"
#include "reference/fp8/synthetic_fill.h"

using namespace kilotoken;
using namespace kilotoken::fp8;

namespace {

std::mt19937 generator(20261121);

std::vector<float> normals(size_t count, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> v(count);
  for (float& x : v) x = normal(generator);
  return v;
}

std::vector<uint8_t> bytes(size_t count) {
  std::vector<uint8_t> v(count);
  for (uint8_t& b : v) b = static_cast<uint8_t>(generator());
  return v;
}

double gamma(double steps) { return steps * 0x1p-24 / (1.0 - steps * 0x1p-24); }

// Device memory between two guards of NaN, which must stay as they are.
template <class T>
class Guarded {
 public:
  static constexpr size_t kGuard = 1024;
  explicit Guarded(size_t count) : count_(count), memory_((count + 2 * kGuard) * sizeof(T)) {
    check(cudaMemset(memory_.data(), 0xff, memory_.bytes()), "poisoning");
    check(cudaDeviceSynchronize(), "poisoning");  // streams that do not block do not wait for it either
  }
  explicit Guarded(const std::vector<T>& from) : Guarded(from.size()) {
    check(cudaMemcpy(data(), from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "copying");
  }
  T* data() const { return memory_.as<T>() + kGuard; }
  std::vector<T> host(const char* what) const {
    std::vector<uint8_t> all((count_ + 2 * kGuard) * sizeof(T));
    check(cudaMemcpy(all.data(), memory_.data(), all.size(), cudaMemcpyDeviceToHost), "copying");
    bool whole = true;
    for (size_t i = 0; i < kGuard * sizeof(T); ++i) whole = whole && all[i] == 0xff && all[all.size() - 1 - i] == 0xff;
    kilotoken::tally::that(whole, "%s writes outside its output", what);
    std::vector<T> out(count_);
    std::memcpy(out.data(), all.data() + kGuard * sizeof(T), count_ * sizeof(T));
    return out;
  }

 private:
  size_t count_;
  Memory memory_;
};

// Worst |got - expected| / bound of an op, for its line.
struct Worst {
  double share = 0;
  void look(const char* what, size_t i, double got, double expected, double bound) {
    const double error = std::fabs(got - expected);
    kilotoken::tally::that(error <= bound, "%s: element %zu is %.9g, expected %.9g within %.3g", what, i, got, expected, bound);
    if (bound > 0 && error / bound > share) share = error / bound;
  }
  void print(const char* what) const { std::printf("%-24s largest error %.3f of its bound\n", what, share); }
};

struct HostLinear {
  Linear device;
  std::vector<double> values;  // [count][rows][cols], scales in
};

HostLinear make_linear(Format format, size_t count, size_t rows, size_t cols, size_t groups = 1) {
  HostLinear w{Linear::make(format, count, rows, cols, groups), std::vector<double>(count * rows * cols)};
  std::vector<uint8_t> codes = bytes(count * w.device.codes_bytes()), scales = bytes(count * w.device.scales_bytes());
  const size_t each = w.device.codes_bytes(), scales_each = w.device.scales_bytes();
  if (format == Format::kFp8) {
    for (uint8_t& code : codes)
      if ((code & 0x7f) == 0x7f) code ^= 1;
    const std::vector<float> s = normals(scales.size() / 4, 0.01f);
    std::memcpy(scales.data(), s.data(), scales.size());
  }
  if (format == Format::kMxfp4)
    for (uint8_t& scale : scales) scale = static_cast<uint8_t>(120 + scale % 12);
  if (format == Format::kBf16) {
    const std::vector<float> v = normals(codes.size() / 2);
    for (size_t i = 0; i < v.size(); ++i) {
      const uint16_t code = float_to_bf16(v[i]);
      std::memcpy(codes.data() + 2 * i, &code, 2);
    }
  }
  if (format == Format::kF32) {
    const std::vector<float> v = normals(codes.size() / 4);
    std::memcpy(codes.data(), v.data(), codes.size());
  }
  const size_t group_rows = rows / groups, group_scale_rows = (group_rows + 127) / 128, scale_cols = (cols + 127) / 128;
  for (size_t c = 0; c < count; ++c)
    for (size_t r = 0; r < rows; ++r)
      for (size_t k = 0; k < cols; ++k) {
        const size_t i = r * cols + k;
        const uint8_t* code = codes.data() + c * each;
        const uint8_t* scale = scales.data() + c * scales_each;
        double value = 0;
        if (format == Format::kFp8) {
          float s;
          std::memcpy(&s, scale + 4 * ((r / group_rows * group_scale_rows + r % group_rows / 128) * scale_cols + k / 128), 4);
          value = static_cast<double>(e4m3_to_float(code[i])) * s;
        } else if (format == Format::kMxfp4) {
          value = static_cast<double>(e2m1_to_float(mxfp4_nibble(code + i / 32 * 16, static_cast<int>(i % 32)))) * e8m0_to_float(scale[i / 32]);
        } else if (format == Format::kBf16) {
          uint16_t v;
          std::memcpy(&v, code + 2 * i, 2);
          value = bf16_to_float(v);
        } else {
          float v;
          std::memcpy(&v, code + 4 * i, 4);
          value = v;
        }
        w.values[c * rows * cols + i] = value;
      }
  check(cudaMemcpy(w.device.codes.data(), codes.data(), codes.size(), cudaMemcpyHostToDevice), "copying");
  if (!scales.empty()) check(cudaMemcpy(w.device.scales.data(), scales.data(), scales.size(), cudaMemcpyHostToDevice), "copying");
  return w;
}

const char* name_of(Format format) {
  switch (format) {
    case Format::kFp8: return "linear fp8";
    case Format::kMxfp4: return "linear mxfp4";
    case Format::kBf16: return "linear bf16";
    default: return "linear f32";
  }
}

void linears(const Stream& stream) {
  for (const Format format : {Format::kFp8, Format::kMxfp4, Format::kBf16, Format::kF32}) {
    Worst worst;
    for (const auto& [rows, cols, groups] : {std::tuple<size_t, size_t, size_t>{7, 32, 1}, {130, 256, 1}, {400, 416, 2}, {33, 1024, 1}})
      for (const size_t inputs : {1, 2, 7, 8, 9, 19}) {
        const HostLinear w = make_linear(format, 1, rows, cols, groups);
        const std::vector<float> x = normals(inputs * cols);
        const Guarded<float> in(x), out(inputs * rows), alone(rows);
        linear(w.device, in.data(), inputs, out.data(), rows, stream);
        stream.wait();
        const std::vector<float> y = out.host(name_of(format));
        // An element passes its own lane's steps (at most cols / 16 rounded up, counting the product), with FP8 the fold of its block and of those
        // behind it, and 4 halvings.
        const double steps = static_cast<double>((cols + 15) / 16 + (format == Format::kFp8 ? (cols + 127) / 128 : 0) + 4);
        for (size_t m = 0; m < inputs; ++m)
          for (size_t n = 0; n < rows; ++n) {
            double sum = 0, size = 0;
            for (size_t k = 0; k < cols; ++k) {
              const double term = w.values[n * cols + k] * x[m * cols + k];
              sum += term;
              size += std::fabs(term);
            }
            worst.look(name_of(format), m * rows + n, y[m * rows + n], sum, gamma(steps) * size);
          }
        for (size_t m = 0; m < inputs; ++m) {
          linear(w.device, in.data() + m * cols, 1, alone.data(), rows, stream);
          stream.wait();
          const std::vector<float> row = alone.host(name_of(format));
          kilotoken::tally::that(std::memcmp(row.data(), y.data() + m * rows, rows * sizeof(float)) == 0, "%s: row %zu of %zu has other bits than alone",
                                 name_of(format), m, inputs);
        }
      }
    worst.print(name_of(format));
  }
}

void expert_linears(const Stream& stream) {
  Worst worst;
  for (const Format format : {Format::kFp8, Format::kMxfp4}) {
    const size_t experts = 5, rows = 70, cols = 160, share = 3, pairs = 6;
    const HostLinear w = make_linear(format, experts, rows, cols);
    const std::vector<float> x = normals(pairs * cols);
    const std::vector<int32_t> ids{4, 0, 2, 2, 1, 3};
    const Guarded<float> in(x), out(pairs * rows);
    const Guarded<int32_t> chosen(ids);
    for (const size_t each : {share, size_t{1}}) {
      expert_linear(w.device, chosen.data(), pairs, each, in.data(), out.data(), stream);
      stream.wait();
      const std::vector<float> y = out.host("expert linear");
      for (size_t p = 0; p < pairs; ++p)
        for (size_t n = 0; n < rows; ++n) {
          double sum = 0, size = 0;
          for (size_t k = 0; k < cols; ++k) {
            const double term = w.values[(ids[p] * rows + n) * cols + k] * x[p / each * cols + k];
            sum += term;
            size += std::fabs(term);
          }
          worst.look("expert linear", p * rows + n, y[p * rows + n], sum, gamma(10 + 2 + 4) * size);
        }
    }
  }
  worst.print("expert linear");
}

void norms(const Stream& stream) {
  Worst worst;
  for (const size_t cols : {3, 16, 40, 256, 6144}) {
    const size_t rows = 3;
    const std::vector<float> x = normals(rows * cols, 3.0f), weight = normals(cols);
    const Guarded<float> in(x), w(weight), out(rows * cols);
    rmsnorm(in.data(), w.data(), rows, cols, 1e-5f, out.data(), stream);
    stream.wait();
    const std::vector<float> y = out.host("rmsnorm");
    for (size_t r = 0; r < rows; ++r) {
      double squares = 0;
      for (size_t c = 0; c < cols; ++c) squares += static_cast<double>(x[r * cols + c]) * x[r * cols + c];
      const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(cols) + 1e-5f);
      // Half the relative error of the sum reaches the root; division, sum, root, reciprocal and two products follow.
      const double steps = (static_cast<double>((cols + 15) / 16) + 4) / 2 + 6;
      for (size_t c = 0; c < cols; ++c) {
        const double expected = x[r * cols + c] * inverse * weight[c];
        worst.look("rmsnorm", r * cols + c, y[r * cols + c], expected, gamma(steps) * std::fabs(expected));
      }
    }
  }
  worst.print("rmsnorm");
}

// Against core's definition, which the CPU reference follows: bits.
void quantisation(const Stream& stream) {
  size_t differing = 0, total = 0;
  for (const size_t cols : {5, 128, 200, 640}) {
    const size_t rows = 4;
    std::vector<float> x = normals(rows * cols, 20.0f);
    for (size_t c = 0; c < cols; ++c) x[c] = 0.0f;  // a row of zeros
    const Guarded<float> in(x), out(rows * cols);
    quantise_activation(in.data(), rows, cols, out.data(), stream);
    stream.wait();
    const std::vector<float> y = out.host("quantise");
    for (size_t r = 0; r < rows; ++r)
      for (size_t begin = 0; begin < cols; begin += 128) {
        const size_t end = begin + 128 < cols ? begin + 128 : cols;
        float amax = 0;
        for (size_t c = begin; c < end; ++c) amax = std::fmax(amax, std::fabs(x[r * cols + c]));
        const float scale = amax > 0 ? amax / kE4m3Max : 1.0f;
        for (size_t c = begin; c < end; ++c, ++total) {
          const float expected = e4m3_to_float(float_to_e4m3(x[r * cols + c] / scale)) * scale;
          if (float_bits(expected) != float_bits(y[r * cols + c])) ++differing;
        }
      }
  }
  kilotoken::tally::that(differing == 0, "quantise: %zu of %zu values differ in bits", differing, total);
  std::printf("%-24s %zu of %zu values have the bits of the definition\n", "quantise", total - differing, total);
}

void elementwise(const Stream& stream) {
  Worst worst;
  std::vector<float> gate = normals(4000, 4.0f), up = normals(4000);
  gate[0] = -200.0f, gate[1] = 200.0f, gate[2] = 0.0f, gate[3] = -88.0f;
  const Guarded<float> g(gate), u(up), out(gate.size());
  swiglu(g.data(), u.data(), gate.size(), out.data(), stream);
  stream.wait();
  std::vector<float> y = out.host("swiglu");
  const double exponential_error = 2e-7;  // stated in exponential.cuh
  for (size_t i = 0; i < y.size(); ++i) {
    const double expected = gate[i] / (1.0 + std::exp(-static_cast<double>(gate[i]))) * up[i];
    worst.look("swiglu", i, y[i], expected, (exponential_error + gamma(4)) * std::fabs(expected) + 1e-36);
  }
  sigmoid(g.data(), gate.size(), out.data(), stream);
  stream.wait();
  y = out.host("sigmoid");
  for (size_t i = 0; i < y.size(); ++i) {
    const double expected = 1.0 / (1.0 + std::exp(-static_cast<double>(gate[i])));
    worst.look("sigmoid", i, y[i], expected, (exponential_error + gamma(3)) * expected + 1e-36);
  }
  const Guarded<float> sum(up);
  add(g.data(), gate.size(), sum.data(), stream);
  stream.wait();
  y = sum.host("add");
  for (size_t i = 0; i < y.size(); ++i) kilotoken::tally::that(y[i] == gate[i] + up[i], "add: element %zu", i);
  worst.print("swiglu, sigmoid");
}

template <class V>
void attention_of(const char* what, const Stream& stream) {
  Worst worst;
  for (const auto& [groups, q_heads, kv_heads] : {std::tuple<uint32_t, uint32_t, uint32_t>{1, 4, 2}, {2, 4, 2}, {2, 8, 4}})
    for (const uint32_t window : {0u, 5u, 40u})
      for (const bool sink : {false, true})
        for (const uint32_t start : {0u, 37u}) {
          const HeadLayout layout{groups, q_heads, kv_heads, 40, 24};
          const uint32_t rows = 6, half = 8, positions = start + rows, width = layout.row_width();
          const std::vector<float> projected = normals(rows * width);
          std::vector<float> cosine, sine;
          for (uint32_t r = 0; r < rows; ++r)
            for (uint32_t i = 0; i < half; ++i) {
              const double angle = (start + r) * std::pow(100.0, -static_cast<double>(i) / half);
              cosine.push_back(static_cast<float>(std::cos(angle)));
              sine.push_back(static_cast<float>(std::sin(angle)));
            }
          const std::vector<float> sinks = normals(q_heads);
          std::vector<V> old_keys(start * kv_heads * 40), old_values(start * kv_heads * 24);
          const auto narrow = [](float x) {
            if constexpr (sizeof(V) == 2) return float_to_bf16(x);
            else return x;
          };
          const auto wide = [](V x) {
            if constexpr (sizeof(V) == 2) return bf16_to_float(x);
            else return x;
          };
          for (V& k : old_keys) k = narrow(normals(1)[0]);
          for (V& v : old_values) v = narrow(normals(1)[0]);

          const Guarded<float> qkv(projected), c(cosine), s(sine), sink_values(sinks);
          const Guarded<V> keys(positions * kv_heads * 40), values(positions * kv_heads * 24);
          if (start > 0) {
            check(cudaMemcpy(keys.data(), old_keys.data(), old_keys.size() * sizeof(V), cudaMemcpyHostToDevice), "copying");
            check(cudaMemcpy(values.data(), old_values.data(), old_values.size() * sizeof(V), cudaMemcpyHostToDevice), "copying");
          }
          rope(layout, {c.data(), s.data(), half}, rows, qkv.data(), stream);
          cache_keys_values(layout, qkv.data(), rows, start, 0.612f, keys.data(), values.data(), stream);
          AttentionStep a{layout, rows, start, window, window == 0 ? positions : std::min(window, positions), 0.158f};
          const Guarded<float> scores(rows * q_heads * a.stride), denominators(rows * q_heads), out(rows * q_heads * 24);
          attention(a, qkv.data(), keys.data(), values.data(), sink ? sink_values.data() : nullptr, scores.data(), denominators.data(), out.data(), stream);
          stream.wait();
          const std::vector<float> turned = qkv.host("rope"), y = out.host(what);
          const std::vector<V> k = keys.host("keys"), v = values.host("values");
          scores.host("scores");

          for (uint32_t r = 0; r < rows; ++r) {  // RoPE: one rounding a product, one of the sum
            for (uint32_t h = 0; h < q_heads + kv_heads; ++h) {
              const size_t at = r * width + (h < q_heads ? layout.q_at(h) : layout.k_at(h - q_heads));
              for (uint32_t d = 0; d < 40; ++d) {
                const uint32_t i = d % half;
                const double x0 = projected[at + i], x1 = projected[at + i + half], co = cosine[r * half + i], si = sine[r * half + i];
                const double expected = d < half ? x0 * co - x1 * si : d < 2 * half ? x1 * co + x0 * si : projected[at + d];
                worst.look("rope", at + d, turned[at + d], expected, d < 2 * half ? gamma(2) * (std::fabs(x0) + std::fabs(x1)) : 0.0);
              }
            }
            for (uint32_t h = 0; h < kv_heads; ++h) {  // the cache: the row itself, rounded once
              for (uint32_t d = 0; d < 40; ++d)
                kilotoken::tally::that(std::memcmp(&k[((start + r) * kv_heads + h) * 40 + d], std::vector<V>{narrow(turned[r * width + layout.k_at(h) + d])}.data(), sizeof(V)) == 0,
                                       "cached key of row %u", r);
              for (uint32_t d = 0; d < 24; ++d)
                kilotoken::tally::that(std::memcmp(&v[((start + r) * kv_heads + h) * 24 + d], std::vector<V>{narrow(turned[r * width + layout.v_at(h) + d] * 0.612f)}.data(), sizeof(V)) == 0,
                                       "cached value of row %u", r);
            }
            for (uint32_t h = 0; h < q_heads; ++h) {
              const uint32_t kv = h / (q_heads / kv_heads), first = a.first(r), end = start + r + 1;
              std::vector<double> logit(end - first);
              double top = sink ? sinks[h] : -INFINITY, slack = 0;
              for (uint32_t j = first; j < end; ++j) {
                double sum = 0, size = 0;
                for (uint32_t d = 0; d < 40; ++d) {
                  const double term = static_cast<double>(turned[r * width + layout.q_at(h) + d]) * wide(k[(j * kv_heads + kv) * 40 + d]);
                  sum += term;
                  size += std::fabs(term);
                }
                logit[j - first] = sum * a.scale;
                top = std::fmax(top, logit[j - first]);
                slack = std::fmax(slack, gamma(3 + 4 + 2) * size * a.scale + 0x1p-24 * std::fabs(logit[j - first]));
              }
              double mass = sink ? std::exp(sinks[h] - top) : 0.0;
              for (const double l : logit) mass += std::exp(l - top);
              for (uint32_t d = 0; d < 24; ++d) {
                double sum = 0, size = 0;
                for (uint32_t j = first; j < end; ++j) {
                  const double term = std::exp(logit[j - first] - top) * wide(v[(j * kv_heads + kv) * 24 + d]) / mass;
                  sum += term;
                  size += std::fabs(term);
                }
                // A weight is off by the logits' error twice (its own, the largest's), the exponential's and the subtraction's; so is the mass; the sums add theirs.
                const double relative = 2 * (2 * slack + 2e-7 + 0x1p-22 + gamma(end - first)) + gamma(end - first + 2.0);
                const size_t i = (r * q_heads + h) * 24 + d;
                worst.look(what, i, y[i], sum, relative * (size + std::fabs(sum)));
              }
            }
          }
        }
  worst.print(what);
}

void router(const Stream& stream) {
  size_t differing = 0, rows_seen = 0;
  for (const auto& [experts, chosen] : {std::pair<uint32_t, uint32_t>{16, 4}, {384, 8}, {40, 40}}) {
    const uint32_t rows = 9, hidden = 50;
    std::vector<float> p = normals(rows * experts), bias = normals(experts, 0.1f);
    for (float& x : p) x = 1.0f / (1.0f + std::exp(-x));
    for (uint32_t e = 0; e < experts; ++e) p[e] = 0.5f, bias[e] = e % 2 == 0 ? 0.0f : bias[e];  // row 0: ties among even experts
    const Guarded<float> scores(p), b(bias), weights(rows * chosen);
    const Guarded<int32_t> ids(rows * chosen);
    const Guarded<uint8_t> touched(std::vector<uint8_t>(experts, 0));
    choose_experts({experts, chosen, true, 1.5f}, scores.data(), b.data(), rows, ids.data(), weights.data(), touched.data(), stream);
    const std::vector<float> outputs = normals(rows * chosen * hidden);
    const Guarded<float> of_experts(outputs), y(rows * hidden);
    combine(of_experts.data(), weights.data(), rows, chosen, hidden, y.data(), stream);
    stream.wait();
    const std::vector<int32_t> got = ids.host("router");
    const std::vector<float> got_weights = weights.host("router"), got_sum = y.host("combine");
    const std::vector<uint8_t> got_touched = touched.host("router");
    std::vector<uint8_t> expected_touched(experts, 0);
    for (uint32_t r = 0; r < rows; ++r, ++rows_seen) {
      std::vector<float> biased(experts);
      std::vector<int> best(chosen);
      for (uint32_t e = 0; e < experts; ++e) biased[e] = p[r * experts + e] + bias[e];
      top_k(biased.data(), static_cast<int>(experts), static_cast<int>(chosen), best.data());
      std::sort(best.begin(), best.end());
      float total = 0;
      for (const int e : best) total += p[r * experts + e];
      std::vector<float> sum(hidden, 0.0f);
      bool same = true;
      for (uint32_t i = 0; i < chosen; ++i) {
        const float weight = p[r * experts + best[i]] / (total + 1e-20f) * 1.5f;
        same = same && got[r * chosen + i] == best[i] && float_bits(got_weights[r * chosen + i]) == float_bits(weight);
        expected_touched[best[i]] = 1;
        for (uint32_t c = 0; c < hidden; ++c) {
          const float term = weight * outputs[(r * chosen + i) * hidden + c];
          sum[c] = sum[c] + term;
        }
      }
      for (uint32_t c = 0; c < hidden; ++c) same = same && float_bits(sum[c]) == float_bits(got_sum[r * hidden + c]);
      if (!same) ++differing;
    }
    kilotoken::tally::that(got_touched == expected_touched, "router: experts touched, %u of %u", chosen, experts);
  }
  kilotoken::tally::that(differing == 0, "router: %zu of %zu rows differ", differing, rows_seen);
  std::printf("%-24s %zu of %zu rows have the choice, weights and sum of the definition, in bits\n", "router, combine", rows_seen - differing, rows_seen);
}

void embeddings(const Stream& stream) {
  const HostLinear table = make_linear(Format::kBf16, 1, 11, 200);
  const std::vector<int32_t> ids{10, 0, 3, 3};
  const Guarded<int32_t> in(ids);
  const Guarded<float> out(ids.size() * 200);
  embedding(table.device, in.data(), ids.size(), out.data(), stream);
  stream.wait();
  const std::vector<float> y = out.host("embedding");
  for (size_t i = 0; i < y.size(); ++i) kilotoken::tally::that(y[i] == table.values[ids[i / 200] * 200 + i % 200], "embedding: element %zu", i);
  std::printf("%-24s exact\n", "embedding");
}

// The bytes the GPU writes against the bytes the CPU computes, at the true shape: rows at the start, the end and in between.
void synthetic(const Stream& stream) {
  const SyntheticShape shape;
  cudaEvent_t before, after;
  check(cudaEventCreate(&before), "timing");
  check(cudaEventCreate(&after), "timing");
  for (const SyntheticShard shard : {SyntheticShard{0, 1}, SyntheticShard{3, 8}})
    for (const SyntheticPart part : {SyntheticPart::kGate, SyntheticPart::kGateScale, SyntheticPart::kDown, SyntheticPart::kDownScale, SyntheticPart::kQkv,
                                     SyntheticPart::kQkvScale, SyntheticPart::kO, SyntheticPart::kRouter, SyntheticPart::kHead, SyntheticPart::kSinks}) {
      const SyntheticTensor t = synthetic_tensor(shape, shard, 1, part);
      const Memory memory(t.size());
      float best = 1e30f;
      for (int i = 0; i < 3; ++i) {
        check(cudaEventRecord(before, stream), "timing");
        synthetic_fill(7, t, memory.data(), stream);
        check(cudaEventRecord(after, stream), "timing");
        stream.wait();
        float ms = 0;
        check(cudaEventElapsedTime(&ms, before, after), "timing");
        best = std::fmin(best, ms);
      }
      const uint64_t rows = static_cast<uint64_t>(t.groups) * t.rows;
      std::vector<uint8_t> got(t.bytes), expected(t.bytes);
      for (const uint64_t row : {uint64_t{0}, uint64_t{1}, rows / 3, rows / 2 + 1, rows - 1}) {
        if (row >= rows) continue;
        check(cudaMemcpy(got.data(), memory.as<uint8_t>() + row * t.bytes, t.bytes, cudaMemcpyDeviceToHost), "copying");
        synthetic_rows(7, t, row, 1, expected.data());
        kilotoken::tally::that(got == expected, "synthetic part %u of %u ranks: row %llu", static_cast<unsigned>(part), shard.of, static_cast<unsigned long long>(row));
      }
      if (t.size() > 100'000'000)
        std::printf("%-24s part %2u, rank %u of %u: %.2f GB in %.3f ms, %.2f TB/s\n", "synthetic", static_cast<unsigned>(part), shard.rank, shard.of,
                    static_cast<double>(t.size()) / 1e9, best, static_cast<double>(t.size()) / best / 1e9);
    }
}

double stored_value(const std::vector<uint8_t>& row, const std::vector<uint8_t>& scale_row, uint32_t k, Format format) {
  switch (format) {
    case Format::kFp8: {
      float scale;
      std::memcpy(&scale, scale_row.data() + k / 128 * 4, 4);
      return static_cast<double>(e4m3_to_float(row[k])) * scale;
    }
    case Format::kMxfp4: return static_cast<double>(e2m1_to_float(mxfp4_nibble(row.data() + k / 32 * 16, static_cast<int>(k % 32)))) * e8m0_to_float(scale_row[k / 32]);
    case Format::kBf16: return bf16_to_float(static_cast<uint16_t>(row[2 * k] | row[2 * k + 1] << 8));
    case Format::kF32: {
      float value;
      std::memcpy(&value, row.data() + 4 * k, 4);
      return value;
    }
  }
  return 0;
}

// Projections of a layer at the true shape, their weights made on the GPU, a few outputs of each against double over bytes made on the CPU.
void synthetic_layer(const Stream& stream) {
  const struct {
    const char* name;
    SyntheticPart part;
    Format format;
    bool fp8_experts;
  } projections[] = {{"qkv", SyntheticPart::kQkv, Format::kFp8, false},         {"o", SyntheticPart::kO, Format::kBf16, false},
                     {"router", SyntheticPart::kRouter, Format::kF32, false},    {"gate", SyntheticPart::kGate, Format::kMxfp4, false},
                     {"down", SyntheticPart::kDown, Format::kMxfp4, false},      {"gate fp8", SyntheticPart::kGate, Format::kFp8, true},
                     {"down fp8", SyntheticPart::kDown, Format::kFp8, true},     {"head", SyntheticPart::kHead, Format::kBf16, false}};
  for (const SyntheticShard shard : {SyntheticShard{0, 1}, SyntheticShard{5, 8}})
    for (const auto& [name, part, format, fp8_experts] : projections) {
      SyntheticShape shape;
      shape.fp8_experts = fp8_experts;
      const uint32_t layer = part == SyntheticPart::kHead ? 0 : 33;
      const SyntheticTensor t = synthetic_tensor(shape, shard, layer, part);
      const SyntheticTensor scales = synthetic_tensor(shape, shard, layer, static_cast<SyntheticPart>(static_cast<uint32_t>(part) + 1));
      const size_t cols = format == Format::kMxfp4 ? t.bytes * 2 : format == Format::kFp8 ? t.bytes : format == Format::kBf16 ? t.bytes / 2 : t.bytes / 4;
      const size_t groups = part == SyntheticPart::kQkv ? synthetic_shard_shape(shape, shard).kv_heads : 1;
      const Linear w = Linear::make(format, t.groups, t.rows, cols, groups);
      synthetic_fill(1, t, w.codes.data(), stream);
      if (w.fp8_inputs()) synthetic_fill(1, scales, w.scales.data(), stream);
      const size_t inputs = 3;
      const std::vector<float> plain = normals(inputs * cols);
      const Guarded<float> given(plain), in(inputs * cols), out(inputs * t.rows);
      if (w.fp8_inputs()) quantise_activation(given.data(), inputs, cols, in.data(), stream);
      else check(cudaMemcpyAsync(in.data(), given.data(), inputs * cols * sizeof(float), cudaMemcpyDeviceToDevice, stream), "copying");
      const std::vector<int32_t> chosen{0, static_cast<int32_t>(t.groups) / 2, static_cast<int32_t>(t.groups) - 1};
      const Guarded<int32_t> experts(chosen);
      if (t.groups > 1) expert_linear(w, experts.data(), inputs, 1, in.data(), out.data(), stream);
      else linear(w, in.data(), inputs, out.data(), t.rows, stream);
      stream.wait();
      const std::vector<float> x = in.host(name), y = out.host(name);
      Worst worst;
      double squares = 0;
      for (const float value : y) squares += static_cast<double>(value) * value;
      std::vector<uint8_t> row(t.bytes), scale_row(scales.bytes == 0 ? 1 : scales.bytes);
      for (size_t m = 0; m < inputs; ++m)
        for (size_t n = 0; n < t.rows; n += t.rows / 13 + 1) {
          const uint64_t group = t.groups > 1 ? static_cast<uint64_t>(chosen[m]) : 0;
          synthetic_rows(1, t, group * t.rows + n, 1, row.data());
          if (w.fp8_inputs()) {
            const uint64_t scale = format == Format::kMxfp4 ? n : n / w.group_rows * w.group_scale_rows() + n % w.group_rows / 128;
            synthetic_rows(1, scales, group * scales.rows + scale, 1, scale_row.data());
          }
          double sum = 0, size = 0;
          for (uint32_t k = 0; k < cols; ++k) {
            const double term = stored_value(row, scale_row, k, format) * x[m * cols + k];
            sum += term;
            size += std::fabs(term);
          }
          const double steps = static_cast<double>((cols + 15) / 16 + (format == Format::kFp8 ? (cols + 127) / 128 : 0) + 4);
          worst.look(name, m * t.rows + n, y[m * t.rows + n], sum, gamma(steps) * size);
        }
      std::printf("%-24s %-8s rank %u of %u: [%zu][%u][%zu], unit rows in, root mean square out %.3f, largest error %.3f of its bound\n", "synthetic layer", name,
                  shard.rank, shard.of, static_cast<size_t>(t.groups), t.rows, cols, std::sqrt(squares / static_cast<double>(y.size())), worst.share);
    }
}

}  // namespace

int main() {
  try {
    require_device();
    const Stream stream;
    linears(stream);
    expert_linears(stream);
    norms(stream);
    quantisation(stream);
    elementwise(stream);
    attention_of<uint16_t>("attention bf16", stream);
    attention_of<float>("attention f32", stream);
    router(stream);
    embeddings(stream);
    synthetic(stream);
    synthetic_layer(stream);
  } catch (const DeviceLack& lack) {
    std::fprintf(stderr, "error: %s\n", lack.what());
    return 3;
  } catch (const DeviceFault& fault) {
    std::fprintf(stderr, "internal error: %s\n", fault.what());
    return 70;
  }
  return kilotoken::tally::finish("reference ops");
}
