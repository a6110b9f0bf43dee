// The ops of standard_*.cuh: each against a computation in double on the CPU, the linears also against linear.cuh, both within the bound of their
// own order (|error| <= gamma(n) sum |terms| with n rounded steps from an element to the result; Higham, section 3.1); then how fast the
// linears read at the true shape, over matrices that no cache holds. Arguments: none, or the number of ranks whose shapes are timed (1, 8).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "core/synthetic.h"
#include "reference/fp8/linear.cuh"
#include "reference/fp8/quantise_activation.cuh"
#include "reference/fp8/rmsnorm.cuh"
#include "reference/fp8/rope_cache.cuh"
#include "reference/fp8/standard_attention.cuh"
#include "reference/fp8/standard_linear.cuh"
#include "reference/fp8/standard_ops.cuh"
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

double gamma(double steps) { return steps * 0x1p-24 / (1.0 - steps * 0x1p-24); }

// Device memory between two guards of NaN, which must stay as they are.
template <class T>
class Guarded {
 public:
  static constexpr size_t kGuard = 1024;
  explicit Guarded(size_t count) : count_(count), memory_((count + 2 * kGuard) * sizeof(T)) {
    check(cudaMemset(memory_.data(), 0xff, memory_.bytes()), "poisoning");
    check(cudaDeviceSynchronize(), "poisoning");
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

struct Worst {
  double share = 0;
  void look(const std::string& what, size_t i, double got, double expected, double bound) {
    const double error = std::fabs(got - expected);
    kilotoken::tally::that(error <= bound, "%s: element %zu is %.9g, expected %.9g within %.3g", what.c_str(), i, got, expected, bound);
    if (bound > 0 && error / bound > share) share = error / bound;
  }
  void print(const char* what) const { std::printf("%-28s largest error %.3f of its bound\n", what, share); }
};

// ---- linears ----

struct HostLinear {
  Linear device;
  std::vector<double> values;  // [count][rows][cols], scales in
};

HostLinear make_linear(Format format, size_t count, size_t rows, size_t cols, size_t groups) {
  HostLinear w{Linear::make(format, count, rows, cols, groups), std::vector<double>(count * rows * cols)};
  const size_t each = w.device.codes_bytes(), scales_each = w.device.scales_bytes();
  std::vector<uint8_t> codes(count * each), scales(count * scales_each);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(generator());
  for (uint8_t& scale : scales) scale = static_cast<uint8_t>(120 + generator() % 12);
  if (format == Format::kFp8) {
    for (uint8_t& code : codes)
      if ((code & 0x7f) == 0x7f) code ^= 1;
    const std::vector<float> s = normals(scales.size() / 4, 0.01f);
    std::memcpy(scales.data(), s.data(), scales.size());
  }
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
        double& value = w.values[c * rows * cols + i];
        if (format == Format::kFp8) {
          float scale;
          std::memcpy(&scale, scales.data() + c * scales_each + ((r / group_rows * group_scale_rows + r % group_rows / 128) * scale_cols + k / 128) * 4, 4);
          value = static_cast<double>(e4m3_to_float(codes[c * each + i])) * scale;
        } else if (format == Format::kMxfp4) {
          const uint8_t byte = codes[c * each + i / 2];
          value = static_cast<double>(e2m1_to_float(k % 2 != 0 ? byte >> 4 : byte & 15)) * e8m0_to_float(scales[c * scales_each + i / 32]);
        } else if (format == Format::kBf16) {
          uint16_t code;
          std::memcpy(&code, codes.data() + c * each + 2 * i, 2);
          value = bf16_to_float(code);
        } else {
          float f;
          std::memcpy(&f, codes.data() + c * each + 4 * i, 4);
          value = f;
        }
      }
  check(cudaMemcpy(w.device.codes.data(), codes.data(), codes.size(), cudaMemcpyHostToDevice), "copying");
  if (!scales.empty()) check(cudaMemcpy(w.device.scales.data(), scales.data(), scales.size(), cudaMemcpyHostToDevice), "copying");
  return w;
}

size_t per_chunk(Format format) { return format == Format::kFp8 ? 16 : format == Format::kMxfp4 ? 32 : format == Format::kBf16 ? 8 : 4; }

const char* name_of(Format format) {
  return format == Format::kFp8 ? "fp8" : format == Format::kMxfp4 ? "mxfp4" : format == Format::kBf16 ? "bf16" : "f32";
}

// share: 0 for one matrix and one row; else pairs over a stack of five.
void linear_of(Format format, size_t rows, size_t cols, size_t groups, size_t share, bool quantised, const Stream& stream, Worst& worst, Worst& against) {
  const size_t count = share == 0 ? 1 : 5, pairs = share == 0 ? 1 : 4, inputs = share == 0 ? 1 : pairs / share;
  const HostLinear w = make_linear(format, count, rows, cols, groups);
  const std::vector<float> x = normals(inputs * cols, 3.0f);
  const std::vector<int32_t> ids{3, 0, 4, 3};
  const Guarded<float> in(x), rounded(inputs * cols), scales(inputs * cols / 128 + 1), out(pairs * rows), ordered(pairs * rows);
  const Guarded<uint8_t> codes(inputs * cols);
  const Guarded<int32_t> chosen(ids);
  std::vector<double> seen(x.begin(), x.end());
  const float* ordered_in = in.data();
  if (quantised) {
    standard_quantise(in.data(), inputs * cols, codes.data(), scales.data(), stream);
    quantise_activation(in.data(), inputs, cols, rounded.data(), stream);
    stream.wait();
    const std::vector<uint8_t> c = codes.host("quantise");
    const std::vector<float> s = scales.host("quantise"), r = rounded.host("quantise");
    for (size_t i = 0; i < seen.size(); ++i) {
      seen[i] = static_cast<double>(e4m3_to_float(c[i])) * s[i / 128];
      kilotoken::tally::that(e4m3_to_float(c[i]) * s[i / 128] == r[i], "quantise: element %zu is not that of quantise_activation.cuh", i);
    }
    ordered_in = rounded.data();
  }
  const StandardInput input = quantised ? StandardInput{nullptr, codes.data(), scales.data()} : StandardInput{in.data(), nullptr, nullptr};
  standard_linear(w.device, share == 0 ? nullptr : chosen.data(), pairs, share == 0 ? 1 : share, input, out.data(), stream);
  if (share == 0) linear(w.device, ordered_in, 1, ordered.data(), rows, stream);
  else expert_linear(w.device, chosen.data(), pairs, share, ordered_in, ordered.data(), stream);
  stream.wait();
  const std::vector<float> y = out.host("standard linear"), z = ordered.host("linear");
  const size_t chunks = cols / per_chunk(format), threads = chunks >= 256 ? 128 : chunks >= 64 ? 32 : chunks >= 16 ? 16 : 8;
  // A chunk's own chain, its scales, a thread's chunks, the halving, the warps.
  const double steps = static_cast<double>(per_chunk(format)) + 4 + static_cast<double>((chunks + threads - 1) / threads) + 5 + 4;
  const double ordered_steps = static_cast<double>(cols) / 16 + static_cast<double>(cols) / 128 + 8;
  const std::string what = std::string(name_of(format)) + " " + std::to_string(rows) + "x" + std::to_string(cols) + (quantised ? " fp8 inputs" : "") + (share ? " experts" : "");
  for (size_t p = 0; p < pairs; ++p)
    for (size_t n = 0; n < rows; ++n) {
      double sum = 0, size = 0;
      for (size_t k = 0; k < cols; ++k) {
        const double term = w.values[((share == 0 ? 0 : static_cast<size_t>(ids[p])) * rows + n) * cols + k] * seen[(share == 0 ? 0 : p / share) * cols + k];
        sum += term;
        size += std::fabs(term);
      }
      worst.look(what, p * rows + n, y[p * rows + n], sum, gamma(steps) * size);
      against.look(what + " against linear.cuh", p * rows + n, y[p * rows + n], z[p * rows + n], (gamma(steps) + gamma(ordered_steps)) * size);
    }
}

void linears(const Stream& stream) {
  Worst worst, against;
  for (const Format format : {Format::kFp8, Format::kMxfp4, Format::kBf16, Format::kF32})
    for (const bool quantised : {true, false}) {
      if (quantised && format != Format::kFp8 && format != Format::kMxfp4) continue;
      for (const size_t cols : {128, 256, 512, 1024, 2048, 6144, 16384}) linear_of(format, 136, cols, 1, 0, quantised, stream, worst, against);
      linear_of(format, 600, 6144, 3, 0, quantised, stream, worst, against);  // scale rows restart every 200 rows
      for (const size_t cols : {256, 512, 2048, 6144})
        for (const size_t share : {1, 4}) linear_of(format, 264, cols, 1, share, quantised, stream, worst, against);
    }
  worst.print("linears, against double");
  against.print("linears, against linear.cuh");
}

// ---- the small ops ----

void small_ops(const Stream& stream) {
  Worst norm;
  for (const size_t cols : {128, 512, 6144, 8192}) {
    const std::vector<float> x = normals(cols, 3.0f), weight = normals(cols);
    const Guarded<float> in(x), w(weight), out(cols);
    standard_rmsnorm(in.data(), w.data(), cols, 1e-5f, out.data(), stream);
    stream.wait();
    const std::vector<float> y = out.host("rmsnorm");
    double squares = 0;
    for (const float v : x) squares += static_cast<double>(v) * v;
    const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(cols) + 1e-5f);
    const double steps = (static_cast<double>((cols + 1023) / 1024) + 10) / 2 + 6;
    for (size_t c = 0; c < cols; ++c) norm.look("rmsnorm", c, y[c], x[c] * inverse * weight[c], gamma(steps) * std::fabs(x[c] * inverse * weight[c]));
  }
  norm.print("rmsnorm");

  // RoPE and the cache write, at a position on the device, have the bits of rope_cache.cuh.
  const HeadLayout layout{2, 32, 2, 192, 128};
  const uint32_t half = 32, positions = 9;
  const std::vector<float> projected = normals(layout.row_width()), cosine = normals(positions * half), sine = normals(positions * half);
  const Guarded<float> c(cosine), s(sine);
  for (const uint32_t at : {0u, 5u, 8u}) {
    const Guarded<float> a(projected), b(projected);
    const Guarded<uint32_t> place(std::vector<uint32_t>{at});
    const Guarded<uint16_t> keys_a(positions * 2 * 192), keys_b(positions * 2 * 192), values_a(positions * 2 * 128), values_b(positions * 2 * 128);
    standard_rope(layout, {c.data(), s.data(), half}, place.data(), a.data(), stream);
    rope(layout, {c.data() + at * half, s.data() + at * half, half}, 1, b.data(), stream);
    standard_cache(layout, a.data(), place.data(), 0.612f, keys_a.data(), values_a.data(), stream);
    cache_keys_values(layout, b.data(), 1, at, 0.612f, keys_b.data(), values_b.data(), stream);
    stream.wait();
    kilotoken::tally::that(a.host("rope") == b.host("rope"), "rope at %u has other bits", at);
    kilotoken::tally::that(keys_a.host("cache") == keys_b.host("cache") && values_a.host("cache") == values_b.host("cache"), "the cache at %u has other bits", at);
  }

  for (const size_t ranks : {2, 3, 8}) {
    const size_t count = 6144;
    const std::vector<float> parts = normals(ranks * count);
    const Guarded<float> in(parts), out(count);
    sum_ranks(in.data(), ranks, count, out.data(), stream);
    stream.wait();
    const std::vector<float> y = out.host("sum of ranks");
    size_t differing = 0;
    for (size_t i = 0; i < count; ++i) {
      float sum = parts[i];
      for (size_t r = 1; r < ranks; ++r) sum += parts[r * count + i];
      differing += float_bits(sum) != float_bits(y[i]);
    }
    kilotoken::tally::that(differing == 0, "sum of %zu ranks: %zu elements have other bits", ranks, differing);
  }

  const auto chosen = [&](std::vector<float> logits) {
    const Guarded<float> in(logits);
    const Guarded<int32_t> id(1);
    const Guarded<uint32_t> place(std::vector<uint32_t>{41});
    const Guarded<Best> bests(token_blocks(logits.size()));
    choose_token(in.data(), logits.size(), bests.data(), id.data(), place.data(), stream);
    stream.wait();
    kilotoken::tally::that(place.host("choice")[0] == 42, "the choice of the token does not move the position");
    const int expected = argmax(logits.data(), static_cast<int>(logits.size())), got = id.host("choice")[0];
    kilotoken::tally::that(got == expected, "choice of the token: %d instead of %d of %zu", got, expected, logits.size());
  };
  for (const size_t vocab : {1, 31, 1024, 1025, 152576}) {
    std::vector<float> logits = normals(vocab);
    chosen(logits);
    logits[vocab / 2] = logits[vocab - 1] = 9.0f;  // a tie
    chosen(logits);
    logits[0] = std::nanf("");
    chosen(logits);
    chosen(std::vector<float>(vocab, 0.0f));
  }

  // The router has the bits of router.cuh: with ties, with a NaN, with all experts chosen.
  for (const auto& [experts, count] : {std::pair<uint32_t, uint32_t>{16, 4}, {384, 8}, {512, 32}, {32, 32}, {33, 1}})
    for (const int kind : {0, 1, 2}) {
      std::vector<float> p = normals(experts), bias = normals(experts, 0.1f);
      for (float& v : p) v = 1.0f / (1.0f + std::exp(-v));
      if (kind == 1)
        for (uint32_t e = 0; e < experts; ++e) p[e] = 0.5f, bias[e] = e % 3 == 0 ? 0.0f : bias[e];
      if (kind == 2) p[experts / 2] = std::nanf("");
      const RouterRule rule{experts, count, true, 1.5f};
      const Guarded<float> scores(p), b(bias), weights(count), expected_weights(count);
      const Guarded<int32_t> ids(count), expected(count);
      const Guarded<uint8_t> touched(experts);
      standard_choose_experts(rule, scores.data(), b.data(), ids.data(), weights.data(), stream);
      choose_experts(rule, scores.data(), b.data(), 1, expected.data(), expected_weights.data(), touched.data(), stream);
      stream.wait();
      const std::vector<float> x = weights.host("router"), y = expected_weights.host("router");
      kilotoken::tally::that(ids.host("router") == expected.host("router"), "router: other experts of %u than router.cuh, case %d", experts, kind);
      kilotoken::tally::that(std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0, "router: other weights of %u than router.cuh, case %d", experts, kind);
    }

  // A head's context is the same whoever holds it.
  const Guarded<float> whole(5 * 4 * 128), part(5 * 2 * 128);
  fill_context(3, 7, 0, 4, 128, 5, 1.0f, whole.data(), stream);
  fill_context(3, 7, 2, 2, 128, 5, 1.0f, part.data(), stream);
  stream.wait();
  const std::vector<float> w = whole.host("context"), p = part.host("context");
  size_t differing = 0;
  double squares = 0;
  for (size_t position = 0; position < 5; ++position)
    for (size_t i = 0; i < 2 * 128; ++i) differing += p[position * 256 + i] != w[position * 512 + 256 + i];
  for (const float v : w) squares += static_cast<double>(v) * v;
  kilotoken::tally::that(differing == 0, "%zu values of a filled context differ between ranks", differing);
  kilotoken::tally::that(std::fabs(squares / static_cast<double>(w.size()) - 1.0) < 0.1, "a filled context has the mean square %.3f", squares / static_cast<double>(w.size()));
  std::printf("%-28s compared\n", "rope, cache, ranks, choices");
}

// ---- attention ----

template <class V>
void attention_of(const char* what, const Stream& stream) {
  Worst worst;
  const auto narrow = [](float x) {
    if constexpr (sizeof(V) == 2) return float_to_bf16(x);
    else return x;
  };
  const auto wide = [](V x) {
    if constexpr (sizeof(V) == 2) return bf16_to_float(x);
    else return x;
  };
  for (const auto& [q_heads, kv_heads] : {std::pair<uint32_t, uint32_t>{16, 1}, {8, 1}, {32, 2}})
    for (const uint32_t window : {0u, 128u})
      for (const uint32_t position : {0u, 6u, 31u, 32u, 127u, 128u, 700u, 2600u})
        for (const uint32_t splits : {8u, 32u}) {
          const bool sink = window != 0;
          const HeadLayout layout{kv_heads, q_heads, kv_heads, 192, 128};
          const uint32_t count = position + 1, shared = q_heads / kv_heads;
          const std::vector<float> projected = normals(layout.row_width()), sinks = normals(q_heads, 2.0f), k = normals(count * kv_heads * 192), v = normals(count * kv_heads * 128);
          std::vector<V> keys(k.size()), values(v.size());
          for (size_t i = 0; i < k.size(); ++i) keys[i] = narrow(k[i]);
          for (size_t i = 0; i < v.size(); ++i) values[i] = narrow(v[i]);
          const StandardAttention a{layout, window, splits, 1.0f / std::sqrt(192.0f)};
          const Guarded<float> qkv(projected), sink_values(sinks), parts(q_heads * splits * 128), tops(q_heads * splits), masses(q_heads * splits), out(q_heads * 128);
          const Guarded<V> key_cache(keys), value_cache(values);  // poisoned behind the last position
          const Guarded<uint32_t> place(std::vector<uint32_t>{position});
          standard_attention(a, place.data(), qkv.data(), key_cache.data(), value_cache.data(), sink ? sink_values.data() : nullptr, parts.data(), tops.data(),
                             masses.data(), out.data(), stream);
          stream.wait();
          const std::vector<float> y = out.host("attention");
          const uint32_t first = window != 0 && count > window ? count - window : 0;
          for (uint32_t h = 0; h < q_heads; ++h) {
            std::vector<double> logits;
            double top = sink ? sinks[h] : -1e300, reach = 0;  // reach: the largest error of a logit
            for (uint32_t j = first; j < count; ++j) {
              double dot = 0, size = 0;
              for (uint32_t d = 0; d < 192; ++d) {
                const double term = static_cast<double>(projected[layout.q_at(h) + d]) * wide(keys[(j * kv_heads + h / shared) * 192 + d]);
                dot += term;
                size += std::fabs(term);
              }
              logits.push_back(dot * a.scale);
              top = std::max(top, logits.back());
              reach = std::max(reach, gamma(194) * size * a.scale);
            }
            double denominator = sink ? std::exp(sinks[h] - top) : 0, largest = 0;
            for (double& logit : logits) {
              largest = std::max(largest, std::fabs(logit - top));
              denominator += logit = std::exp(logit - top);
            }
            // A weight: its logit, the subtraction, two exponentials (its own and the part's); sums of all keys above and below.
            const double relative = 2 * (2 * reach + 2 * gamma(1) * largest + 3 * 2e-7 + gamma(static_cast<double>(count) + 16));
            for (uint32_t d = 0; d < 128; ++d) {
              double sum = 0, size = 0;
              for (uint32_t j = first; j < count; ++j) {
                const double term = logits[j - first] * wide(values[(j * kv_heads + h / shared) * 128 + d]);
                sum += term;
                size += std::fabs(term);
              }
              worst.look(std::string(what) + " at " + std::to_string(position) + " window " + std::to_string(window) + " splits " + std::to_string(splits), h * 128 + d,
                         y[h * 128 + d], sum / denominator, relative * size / denominator);
            }
          }
        }
  worst.print(what);
}

// ---- rates ----

// Microseconds a launch, over copies of the matrix that together exceed every cache; the median of nine rounds.
double launch_us(const Stream& stream, size_t copies, const std::function<void(size_t)>& launch) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "making an event");
  check(cudaEventCreate(&end), "making an event");
  std::vector<double> us;
  for (int round = 0; round < 10; ++round) {
    check(cudaEventRecord(begin, stream), "timing");
    for (size_t i = 0; i < copies; ++i) launch(i);
    check(cudaEventRecord(end, stream), "timing");
    stream.wait();
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "timing");
    if (round > 0) us.push_back(1e3 * ms / static_cast<double>(copies));
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(us.begin(), us.end());
  return us[us.size() / 2];
}

void rate(const char* what, Format format, size_t count, size_t read, size_t rows, size_t cols, const Stream& stream) {
  // read: matrices of a stack that one launch reads; 0: a single matrix.
  const size_t bytes_each = rows * cols * (format == Format::kMxfp4 ? 1 : format == Format::kFp8 ? 2 : format == Format::kBf16 ? 4 : 8) / 2;
  const size_t bytes = bytes_each * std::max<size_t>(read, 1), stack_bytes = bytes_each * count;
  const size_t copies = read > 0 ? 1 : std::max<size_t>(4, (size_t{400} << 20) / stack_bytes + 1);
  std::vector<Linear> all;
  for (size_t i = 0; i < copies; ++i) {
    all.push_back(Linear::make(format, count, rows, cols));
    check(cudaMemset(all.back().codes.data(), 0x31 + static_cast<int>(i % 7), all.back().codes.bytes()), "filling");
    if (all.back().fp8_inputs()) check(cudaMemset(all.back().scales.data(), 0x3b, all.back().scales.bytes()), "filling");
  }
  const size_t pairs = std::max<size_t>(read, 1), launches = read > 0 ? count / read : copies;
  std::vector<int32_t> ids(count);
  for (size_t i = 0; i < count; ++i) ids[i] = static_cast<int32_t>(i * 37 % count);
  std::shuffle(ids.begin(), ids.end(), generator);
  const Array<int32_t> experts(ids);
  const Array<float> x(normals(pairs * cols));
  Array<float> scales(pairs * cols / 128), y(pairs * rows);
  Array<uint8_t> codes(pairs * cols);
  standard_quantise(x.data(), pairs * cols, codes.data(), scales.data(), stream);
  stream.wait();
  const bool quantised = format == Format::kFp8 || format == Format::kMxfp4;
  const StandardInput in = quantised ? StandardInput{nullptr, codes.data(), scales.data()} : StandardInput{x.data(), nullptr, nullptr};
  const double us = launch_us(stream, launches, [&](size_t i) {
    standard_linear(all[i % copies], read > 0 ? experts.data() + i * read : nullptr, pairs, 1, in, y.data(), stream);
  });
  const double ordered = launch_us(stream, std::min<size_t>(launches, 8), [&](size_t i) {
    if (read > 0) expert_linear(all[0], experts.data() + i * read, pairs, 1, x.data(), y.data(), stream);
    else linear(all[i % copies], x.data(), 1, y.data(), rows, stream);
  });
  std::printf("%-24s %-5s %6zu x %-6zu %7.1f MB  %8.2f us %7.0f GB/s   ordered %9.2f us %6.0f GB/s\n", what, name_of(format), pairs * rows, cols, static_cast<double>(bytes) / 1e6, us,
              static_cast<double>(bytes) / us / 1e3, ordered, static_cast<double>(bytes) / ordered / 1e3);
}

void rates(size_t ranks, const Stream& stream) {
  const SyntheticShape s;
  std::printf("one rank of %zu, one row, each launch behind the last\n", ranks);
  const size_t width = s.expert_width / ranks, stack = std::min<size_t>(384, 64 * ranks);
  rate("qkv", Format::kFp8, 1, 0, 8 / std::min<size_t>(ranks, 8) * 3392, s.hidden, stream);
  rate("o", Format::kBf16, 1, 0, s.hidden, s.q_heads * s.v_head_dim / ranks, stream);
  rate("router", Format::kF32, 1, 0, s.experts, s.hidden, stream);
  rate("expert gate", Format::kFp8, stack, 8, width, s.hidden, stream);
  rate("expert down", Format::kFp8, stack, 8, s.hidden, width, stream);
  rate("expert gate", Format::kMxfp4, stack, 8, width, s.hidden, stream);
  rate("expert down", Format::kMxfp4, stack, 8, s.hidden, width, stream);
  rate("dense gate", Format::kFp8, 1, 0, s.dense_width / ranks, s.hidden, stream);
  rate("dense down", Format::kFp8, 1, 0, s.hidden, s.dense_width / ranks, stream);
  rate("head", Format::kBf16, 1, 0, s.vocab / ranks, s.hidden, stream);

  // Attention over random keys, a global layer.
  const uint32_t kv_heads = static_cast<uint32_t>(std::max<size_t>(1, s.kv_heads / ranks)), q_heads = kv_heads * 16;
  const HeadLayout layout{kv_heads, q_heads, kv_heads, 192, 128};
  for (const uint32_t context : {128u, 4096u, 131072u}) {
    const uint32_t splits = 528 / kv_heads;
    const size_t copies = std::max<size_t>(1, (size_t{200} << 20) / (static_cast<size_t>(context) * kv_heads * 640) + 1);
    std::vector<Array<uint16_t>> keys, values;
    for (size_t i = 0; i < std::min<size_t>(copies, 64); ++i) {
      keys.emplace_back(static_cast<size_t>(context) * kv_heads * 192);
      values.emplace_back(static_cast<size_t>(context) * kv_heads * 128);
      fill_context(1, static_cast<uint32_t>(2 * i), 0, kv_heads, 192, context, 1.0f, keys.back().data(), stream);
      fill_context(1, static_cast<uint32_t>(2 * i + 1), 0, kv_heads, 128, context, 1.0f, values.back().data(), stream);
    }
    const Array<float> qkv(normals(layout.row_width()));
    const Array<uint32_t> place(std::vector<uint32_t>{context - 1});
    Array<float> parts(static_cast<size_t>(q_heads) * splits * 128), tops(q_heads * splits), masses(q_heads * splits), out(q_heads * 128);
    const StandardAttention a{layout, 0, splits, 1.0f / std::sqrt(192.0f)};
    const double us = launch_us(stream, keys.size(), [&](size_t i) {
      standard_attention(a, place.data(), qkv.data(), keys[i].data(), values[i].data(), nullptr, parts.data(), tops.data(), masses.data(), out.data(), stream);
    });
    const double bytes = static_cast<double>(context) * kv_heads * 640;
    std::printf("%-24s %u key/value heads, %6u keys %7.1f MB  %8.2f us %7.0f GB/s\n", "attention (two launches)", kv_heads, context, bytes / 1e6, us, bytes / us / 1e3);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    require_device();
    const Stream stream;
    linears(stream);
    small_ops(stream);
    attention_of<uint16_t>("attention, BF16 cache", stream);
    attention_of<float>("attention, F32 cache", stream);
    for (int i = 1; i < argc; ++i) rates(std::stoul(argv[i]), stream);
  } catch (const DeviceLack& lack) {
    std::fprintf(stderr, "error: %s\n", lack.what());
    return 3;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "internal error: %s\n", error.what());
    return 70;
  }
  return kilotoken::tally::finish("reference standard ops");
}
