// The ops of reference/cpu by themselves, for test/cpu/engine/ops.test.ts. Linked with every build of ops.cpp that this machine can
// run, the portable one included; prints one line a finding and `ok` at the end. Argument: what to check.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/e4m3.h"
#include "reference/cpu/memory.h"
#include "reference/cpu/ops.h"
#include "reference/cpu/packed_rows.h"

#define KT_OPS probe
#include "reference/cpu/exponential.h"
#include "reference/cpu/quantise_activation.h"

namespace kilotoken::portable {
extern const Ops table;
}

using namespace kilotoken;

namespace {

int findings = 0;

template <class... T>
void report(const char* format, T... values) {
  if (++findings <= 10) std::printf(format, values...);
}

uint32_t bits(float x) { return float_bits(x); }

// exp over the whole range, against the C library in double.
void exponential_error() {
  double worst = 0;
  for (int64_t i = -1100000; i <= 900000; ++i) {
    float x[kLanes];
    for (int l = 0; l < kLanes; ++l) x[l] = static_cast<float>((static_cast<double>(i) + l / 16.0) * 1e-4);
    float y[kLanes];
    probe::store(y, probe::exponential(probe::load(x)));
    for (int l = 0; l < kLanes; ++l) {
      const double expected = std::exp(static_cast<double>(x[l]));
      if (x[l] < -87.33f) {
        if (!(y[l] >= 0 && y[l] < 2e-38f)) report("exp(%g) = %g\n", x[l], y[l]);
      } else if (expected > 3.4028235677973366e38) {
        if (!std::isinf(y[l])) report("exp(%g) = %g\n", x[l], y[l]);
      } else {
        const double error = std::fabs(y[l] - expected) / expected;
        worst = error > worst ? error : worst;
        if (error > 2e-7) report("exp(%g) = %g, expected %g\n", x[l], y[l], expected);
      }
    }
  }
  float special[kLanes] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f};
  float y[kLanes];
  probe::store(y, probe::exponential(probe::load(special)));
  if (!std::isinf(y[0]) || bits(y[1]) != 0 || !std::isnan(y[2]) || y[3] != 1.0f || y[4] != 1.0f) report("special values\n");
  std::printf("worst relative error %.3g\n", worst);
}

// The arithmetic rounding against core's encoder: every binary32 pattern of the range a quantised element can have, in steps that
// visit every midpoint, and its neighbours.
void e4m3_rounding() {
  const auto check = [](float x) {
    float lanes[kLanes] = {x};
    probe::store(lanes, probe::round_to_e4m3(probe::load(lanes)));
    const float expected = e4m3_to_float(float_to_e4m3(x));
    if (bits(lanes[0]) != bits(expected)) report("%.9g rounds to %.9g, expected %.9g\n", x, lanes[0], expected);
  };
  for (uint32_t pattern = 0; pattern < bits(1024.0f); pattern += 1u << 16)  // midpoints lie on multiples of 2^19 and coarser
    for (int around = -2; around <= 2; ++around) {
      const float x = bits_float(pattern + static_cast<uint32_t>(around < 0 && pattern == 0 ? 0 : around));
      check(x);
      check(-x);
    }
  // Subnormal midpoints: odd multiples of 2^-10.
  for (int i = 0; i < 64; ++i)
    for (int around = -2; around <= 2; ++around) check(bits_float(bits(static_cast<float>(i + 1) * exp2_exact(-10)) + around));
}

// All builds, the same random work, the same bits. Sizes cross every tile and leave ragged ends.
void builds_agree() {
  size_t count = 0;
  const Ops* const* tables = available_ops(&count);
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const Ops& reference = portable::table;
  const auto fill = [&](auto& v) {
    for (auto& x : v) x = normal(random);
  };
  const auto same = [&](const char* what, const AlignedVector<float>& a, const AlignedVector<float>& b) {
    for (size_t i = 0; i < a.size(); ++i)
      if (bits(a[i]) != bits(b[i])) {
        report("%s: element %zu is %.9g and %.9g\n", what, i, a[i], b[i]);
        return;
      }
  };
  for (size_t t = 0; t < count; ++t) {
    const Ops& ops = *tables[t];
    std::printf("portable and %s\n", ops.instruction_set);
    for (const size_t cols : {1, 15, 16, 40, 128, 200, 272})
      for (const size_t rows : {1, 7, 8, 19})
        for (const size_t inputs : {1, 2, 3, 5, 8, 11})
          for (const bool scaled : {false, true}) {
            const size_t stride = round_up(cols, kLanes), blocks = round_up(cols, kScaleBlock) / kScaleBlock;
            AlignedVector<uint16_t> w(rows * stride);
            AlignedVector<float> wf(rows * stride), x(inputs * cols), packed(inputs * stride), scales(2 * blocks), a(inputs * rows), b(a);
            std::vector<uint32_t> scale_row(rows);
            fill(x);
            fill(scales);
            for (size_t r = 0; r < rows; ++r) {
              scale_row[r] = static_cast<uint32_t>(r % 2);
              for (size_t c = 0; c < cols; ++c) {
                w[r * stride + c] = float_to_bf16(normal(random));
                wf[r * stride + c] = normal(random);
              }
            }
            pack_rows(inputs, cols, [&](size_t i) { return x.data() + i * cols; }, packed.data());
            const LinearShape shape{rows, cols, stride, scaled ? scales.data() : nullptr, scale_row.data(), blocks};
            ops.linear_bf16(w.data(), shape, packed.data(), inputs, a.data(), rows);
            reference.linear_bf16(w.data(), shape, packed.data(), inputs, b.data(), rows);
            same("linear_bf16", a, b);
            ops.linear_f32(wf.data(), shape, packed.data(), inputs, a.data(), rows);
            reference.linear_f32(wf.data(), shape, packed.data(), inputs, b.data(), rows);
            same("linear_f32", a, b);
            for (size_t i = 0; i < inputs; ++i) {  // each row alone
              pack_rows(1, cols, [&](size_t) { return x.data() + i * cols; }, packed.data());
              ops.linear_f32(wf.data(), shape, packed.data(), 1, b.data() + i * rows, rows);
            }
            same("linear_f32 of one row", a, b);
          }
    for (const size_t cols : {1, 3, 16, 31, 128, 300}) {
      AlignedVector<float> x(cols), v(cols), a(cols), b(cols);
      fill(x);
      fill(v);
      ops.quantise_activation(x.data(), cols, a.data());
      reference.quantise_activation(x.data(), cols, b.data());
      same("quantise_activation", a, b);
      ops.rmsnorm(x.data(), v.data(), cols, 1e-5f, a.data());
      reference.rmsnorm(x.data(), v.data(), cols, 1e-5f, b.data());
      same("rmsnorm", a, b);
      ops.swiglu(x.data(), v.data(), cols, a.data());
      reference.swiglu(x.data(), v.data(), cols, b.data());
      same("swiglu", a, b);
      ops.sigmoid(x.data(), cols, a.data());
      reference.sigmoid(x.data(), cols, b.data());
      same("sigmoid", a, b);
    }
    for (const size_t heads : {1, 2, 3})
      for (const size_t rows : {1, 3, 8, 13})
        for (const bool sink : {false, true}) {
          const size_t head_dim = 40, value_dim = 24, key_stride = 48, value_stride = 32, keys = 60;
          AlignedVector<uint16_t> k(keys * key_stride), v(keys * value_stride);
          AlignedVector<float> k_f32(k.size()), v_f32(v.size());
          AlignedVector<float> q(rows * heads * head_dim), sinks(heads), a(rows * heads * value_dim), b(a);
          fill(q);
          fill(sinks);
          for (size_t j = 0; j < keys; ++j) {
            for (size_t d = 0; d < head_dim; ++d) k[j * key_stride + d] = float_to_bf16(normal(random));
            for (size_t d = 0; d < value_dim; ++d) v[j * value_stride + d] = float_to_bf16(normal(random));
          }
          std::transform(k.begin(), k.end(), k_f32.begin(), bf16_to_float);
          std::transform(v.begin(), v.end(), v_f32.begin(), bf16_to_float);
          std::vector<uint32_t> first(rows), end(rows);
          for (size_t r = 0; r < rows; ++r) {
            first[r] = static_cast<uint32_t>(2 * r);
            end[r] = static_cast<uint32_t>(2 * r + 1 + 3 * (r % 7));
          }
          AlignedVector<float> packed(8 * heads * key_stride), logits(8 * heads * keys), denominators(8 * heads);
          AttentionHead head{rows, heads, head_dim, value_dim, q.data(), heads * head_dim, k.data(), key_stride, v.data(),
                             value_stride, first.data(), end.data(), sink ? sinks.data() : nullptr, 0.158f, a.data(),
                             heads * value_dim, packed.data(), logits.data(), denominators.data()};
          ops.attention_bf16(head);
          head.out = b.data();
          reference.attention_bf16(head);
          same("attention", a, b);
          AttentionHead wide = head;  // the same keys and values in binary32
          wide.keys = k_f32.data();
          wide.values = v_f32.data();
          ops.attention_f32(wide);
          same("attention over binary32 keys and values", a, b);
          // Each row alone.
          for (size_t r = 0; r < rows; ++r) {
            AttentionHead one = head;
            one.rows = 1;
            one.queries = q.data() + r * heads * head_dim;
            one.first = first.data() + r;
            one.end = end.data() + r;
            one.out = b.data() + r * heads * value_dim;
            ops.attention_bf16(one);
          }
          same("attention of one row", a, b);
        }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "exponential") exponential_error();
  else if (what == "e4m3") e4m3_rounding();
  else if (what == "builds") builds_agree();
  else return 2;
  std::printf(findings == 0 ? "ok\n" : "%d findings\n", findings);
  return findings == 0 ? 0 : 1;
}
