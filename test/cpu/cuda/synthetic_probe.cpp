// core/synthetic.h by itself, for test/cpu/cuda/synthetic.test.ts. Prints one line a finding and `ok` at the end. Argument: what to check.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/bf16.h"
#include "core/e2m1.h"
#include "core/e4m3.h"
#include "core/e8m0.h"
#include "core/mxfp4.h"
#include "core/synthetic.h"

using namespace kilotoken;
using P = SyntheticPart;

namespace {

int findings = 0;

template <class... T>
void report(const char* format, T... values) {
  if (++findings <= 10) std::printf(format, values...);
}

constexpr P kParts[] = {P::kEmbedding, P::kHead, P::kFinalNorm, P::kInputNorm, P::kPostAttentionNorm, P::kQkv, P::kQkvScale, P::kO, P::kSinks,
                        P::kDenseGate, P::kDenseGateScale, P::kDenseUp, P::kDenseUpScale, P::kDenseDown, P::kDenseDownScale, P::kRouter,
                        P::kCorrectionBias, P::kGate, P::kGateScale, P::kUp, P::kUpScale, P::kDown, P::kDownScale, P::kDraftFc, P::kDraftHiddenNorm,
                        P::kDraftFinalNorm, P::kDraftMaskEmbedding, P::kDraftInputNorm, P::kDraftPostAttentionNorm, P::kDraftQ, P::kDraftK, P::kDraftV,
                        P::kDraftO, P::kDraftQNorm, P::kDraftKNorm, P::kDraftSinks, P::kDraftGate, P::kDraftUp, P::kDraftDown};

SyntheticShape narrow(bool fp8) {
  SyntheticShape s;
  s.layers = 3, s.hidden = 256, s.q_heads = 16, s.kv_heads = 4, s.head_dim = 40, s.v_head_dim = 24, s.rotary_dim = 16;
  s.experts = 6, s.experts_per_token = 2, s.expert_width = 512, s.dense_width = 512, s.vocab = 64, s.draft_width = 512, s.draft_head_dim = 16;
  s.fp8_experts = fp8;
  return s;
}

std::vector<uint8_t> all_of(uint64_t seed, const SyntheticTensor& t) {
  std::vector<uint8_t> bytes(t.size());
  synthetic_rows(seed, t, 0, static_cast<uint64_t>(t.groups) * t.rows, bytes.data());
  return bytes;
}

// The bytes are those of the formula, whichever way they are asked for; two seeds, layers or parts have different ones.
void recomputed() {
  uint64_t digest = 0xcbf29ce484222325;  // FNV-1a over every tensor: a change of what seeds mean must not pass unseen
  for (const bool fp8 : {false, true}) {
    const SyntheticShape s = narrow(fp8);
    for (const P part : kParts) {
      const SyntheticTensor t = synthetic_tensor(s, {}, 1, part);
      const std::vector<uint8_t> whole = all_of(7, t);
      for (const uint8_t b : whole) digest = (digest ^ b) * 0x100000001b3;
      for (uint64_t i = 0; i < whole.size(); i += 97)
        if (synthetic_byte(7, t, i) != whole[i]) report("part %u: byte %llu\n", static_cast<unsigned>(part), static_cast<unsigned long long>(i));
      for (uint64_t row = 0; row < static_cast<uint64_t>(t.groups) * t.rows; row += 5) {
        std::vector<uint8_t> one(t.bytes);
        synthetic_rows(7, t, row, 1, one.data());
        if (std::memcmp(one.data(), whole.data() + row * t.bytes, t.bytes) != 0) report("part %u: row %llu\n", static_cast<unsigned>(part), static_cast<unsigned long long>(row));
      }
      if (t.size() >= 64) {
        if (all_of(8, t) == whole) report("part %u: another seed, the same bytes\n", static_cast<unsigned>(part));
        if (all_of(uint64_t{7} | uint64_t{1} << 32, t) == whole) report("part %u: the high half of the seed does nothing\n", static_cast<unsigned>(part));
        if (all_of(7, synthetic_tensor(s, {}, 2, part)) == whole) report("part %u: another layer, the same bytes\n", static_cast<unsigned>(part));
      }
    }
  }
  std::printf("digest %016llx\n", static_cast<unsigned long long>(digest));
}

// Every shard of 2 and of 4 ranks holds the bytes of its part of the whole, matrix by matrix, and all shards together hold all.
void shards() {
  for (const bool fp8 : {false, true}) {
    const SyntheticShape s = narrow(fp8);
    for (const uint32_t of : {2u, 4u})
      for (const P part : kParts) {
        const SyntheticTensor t = synthetic_tensor(s, {}, 1, part);
        const std::vector<uint8_t> whole = all_of(3, t);
        uint64_t held = 0;
        for (uint32_t rank = 0; rank < of; ++rank) {
          const char* misfit = synthetic_misfit(s, {rank, of});
          if (misfit != nullptr) report("%s\n", misfit);
          const SyntheticTensor shard = synthetic_tensor(s, {rank, of}, 1, part);
          const std::vector<uint8_t> bytes = all_of(3, shard);
          held += bytes.size();
          for (uint32_t g = 0; g < t.groups; ++g)
            for (uint32_t r = 0; r < shard.rows; ++r)
              if (std::memcmp(bytes.data() + (static_cast<uint64_t>(g) * shard.rows + r) * shard.bytes,
                              whole.data() + (static_cast<uint64_t>(g) * t.rows + shard.first_row + r) * t.bytes + shard.first_byte, shard.bytes) != 0)
                report("part %u, rank %u of %u: row %u of matrix %u\n", static_cast<unsigned>(part), rank, of, r, g);
        }
        if (held != whole.size() && held != of * whole.size()) report("part %u: %u shards hold %llu of %llu bytes\n", static_cast<unsigned>(part), of,
                                                                       static_cast<unsigned long long>(held), static_cast<unsigned long long>(whole.size()));
      }
    // A rank's shape gives tensors of the size of its shards, so that a shard is a network of its own.
    const SyntheticShape part_shape = synthetic_shard_shape(s, {1, 4});
    for (const P part : kParts)
      if (synthetic_tensor(part_shape, {}, 1, part).size() != synthetic_tensor(s, {1, 4}, 1, part).size()) report("part %u: shape and shard differ\n", static_cast<unsigned>(part));
  }
}

// |observed - expected| within `sigmas` standard errors.
void near(const char* what, double observed, double expected, double standard_error, double sigmas = 5) {
  if (std::fabs(observed - expected) > sigmas * standard_error) report("%s: %.6g, expected %.6g +- %.2g\n", what, observed, expected, standard_error);
}

// The true shape: values of a sample have the means and mean squares that the exponents were chosen for, codes are balanced, neighbours along
// rows and columns are uncorrelated, and nothing is NaN or infinite.
void distribution() {
  const SyntheticShape s;
  double squares = 0;
  for (int code = 0x3f; code <= 0x7e; ++code) squares += static_cast<double>(e4m3_to_float(static_cast<uint8_t>(code))) * e4m3_to_float(static_cast<uint8_t>(code));
  if (squares / 64 != kSyntheticE4m3) report("mean square of E4M3: %.12f\n", squares / 64);
  squares = 0;
  for (uint8_t code = 0; code < 16; ++code) squares += static_cast<double>(e2m1_to_float(code)) * e2m1_to_float(code);
  if (squares / 16 != kSyntheticE2m1) report("mean square of E2M1: %.12f\n", squares / 16);

  const auto sample = [&](P part, uint32_t layer, uint64_t rows) {
    const SyntheticTensor t = synthetic_tensor(s, {}, layer, part);
    std::vector<uint8_t> bytes(rows * t.bytes);
    synthetic_rows(1, t, static_cast<uint64_t>(t.groups) * t.rows / 2, rows, bytes.data());
    return bytes;
  };
  // Values [rows][cols]: sums against the mean square asked for, within the factor 2 that a power of two leaves.
  const auto values = [&](const char* what, const std::vector<double>& v, size_t cols, double asked) {
    double sum = 0, square = 0, fourth = 0, along = 0, across = 0;
    for (size_t i = 0; i < v.size(); ++i) {
      if (!std::isfinite(v[i])) return report("%s: not finite\n", what);
      sum += v[i], square += v[i] * v[i], fourth += v[i] * v[i] * v[i] * v[i];
      if (i % cols + 1 < cols) along += v[i] * v[i + 1];
      if (i + cols < v.size()) across += v[i] * v[i + cols];
    }
    const double n = static_cast<double>(v.size()), mean_square = square / n;
    near(what, sum / n, 0, std::sqrt(mean_square / n));
    near(what, along / n, 0, mean_square / std::sqrt(n));
    near(what, across / n, 0, mean_square / std::sqrt(n));
    if (mean_square < 0.49 * asked || mean_square > 2.05 * asked) report("%s: mean square %.4g, asked %.4g\n", what, mean_square, asked);
    std::printf("%s: mean square over what was asked %.3f, kurtosis %.2f\n", what, mean_square / asked, fourth / n / (mean_square * mean_square));
  };
  const auto mxfp4 = [&](P part, size_t cols, double asked, const char* what) {
    const std::vector<uint8_t> codes = sample(part, 1, 128), scales = sample(static_cast<P>(static_cast<uint32_t>(part) + 1), 1, 128);
    std::vector<double> v(128 * cols);
    for (size_t i = 0; i < v.size(); ++i)
      v[i] = static_cast<double>(e2m1_to_float(mxfp4_nibble(codes.data() + i / 32 * 16, static_cast<int>(i % 32)))) * e8m0_to_float(scales[i / 32]);
    values(what, v, cols, asked);
    double counts[16] = {}, chi = 0;
    for (const uint8_t b : codes) ++counts[b & 15], ++counts[b >> 4];
    const double each = static_cast<double>(codes.size()) / 8;
    for (const double count : counts) chi += (count - each) * (count - each) / each;
    if (chi > 50) report("%s: chi-square of the codes %.1f with 15 degrees of freedom\n", what, chi);
  };
  mxfp4(P::kGate, 6144, 1.0 / 6144, "gate");
  mxfp4(P::kDown, 2048, 2.0 / 2048, "down");
  {
    const std::vector<uint8_t> codes = sample(P::kQkv, 1, 128), scales = sample(P::kQkvScale, 1, 1);
    std::vector<double> v(128 * 6144);
    for (size_t i = 0; i < v.size(); ++i) {
      float scale;
      std::memcpy(&scale, scales.data() + i % 6144 / 128 * 4, 4);
      v[i] = static_cast<double>(e4m3_to_float(codes[i])) * scale;
    }
    values("qkv", v, 6144, 1.0 / 6144);
  }
  const auto bf16 = [&](P part, size_t cols, double asked, const char* what) {
    const std::vector<uint8_t> codes = sample(part, 0, 64);
    std::vector<double> v(64 * cols);
    for (size_t i = 0; i < v.size(); ++i) v[i] = bf16_to_float(static_cast<uint16_t>(codes[2 * i] | codes[2 * i + 1] << 8));
    values(what, v, cols, asked);
  };
  bf16(P::kEmbedding, 6144, 1.0, "embedding");
  bf16(P::kHead, 6144, 16.0 / 6144, "head");
  bf16(P::kO, 16384, 0.25 / 16384, "o");
  bf16(P::kDraftQ, 6144, 1.0 / 6144, "draft q");
  {
    const std::vector<uint8_t> bytes = sample(P::kRouter, 1, 64);
    std::vector<double> v(64 * 6144);
    for (size_t i = 0; i < v.size(); ++i) {
      float x;
      std::memcpy(&x, bytes.data() + 4 * i, 4);
      v[i] = x;
    }
    values("router", v, 6144, 1.0 / 6144);
  }
  for (const P part : {P::kFinalNorm, P::kInputNorm, P::kDraftQNorm}) {
    const SyntheticTensor t = synthetic_tensor(s, {}, 0, part);
    std::vector<uint8_t> bytes(t.size());
    synthetic_rows(1, t, 0, 1, bytes.data());
    for (size_t i = 0; i < bytes.size(); i += 2) {
      const float x = bf16_to_float(static_cast<uint16_t>(bytes[i] | bytes[i + 1] << 8));
      if (!(x >= 0.75f && x < 1.5f)) report("a norm weight is %g\n", x);
    }
  }
  // E4M3 codes over a long stretch: no NaN, both signs, all 64 magnitudes alike.
  const std::vector<uint8_t> codes = sample(P::kQkv, 2, 64);
  double counts[128] = {}, chi = 0;
  for (const uint8_t code : codes) {
    if ((code & 0x7f) < 0x3f || (code & 0x7f) > 0x7e) report("an E4M3 code is %02x\n", code);
    else ++counts[(code >> 7) * 64 + (code & 0x7f) - 0x3f];
  }
  for (const double count : counts) chi += (count - codes.size() / 128.0) * (count - codes.size() / 128.0) / (codes.size() / 128.0);
  if (chi > 220) report("chi-square of the E4M3 codes %.1f with 127 degrees of freedom\n", chi);
}

// The published counts: parameters of all tensors of 70 layers, as facts of the checkpoint have them.
void counts() {
  const SyntheticShape s;
  const auto elements = [&](uint32_t layer, P part, double bytes_each) { return static_cast<double>(synthetic_tensor(s, {}, layer, part).size()) / bytes_each; };
  double experts = 0, qkv = 0, o = 0, router = 0;
  for (uint32_t l = 0; l < 70; ++l) {
    qkv += elements(l, P::kQkv, 1);
    o += elements(l, P::kO, 2);
    if (l == 0) continue;
    for (const P part : {P::kGate, P::kUp, P::kDown}) experts += elements(l, part, 0.5);
    router += elements(l, P::kRouter, 4) + elements(l, P::kCorrectionBias, 4);
  }
  std::printf("experts %.0f qkv %.0f o %.0f router %.0f embedding and head %.0f dense %.0f\n", experts, qkv, o, router, 2 * elements(0, P::kEmbedding, 2),
              3 * elements(0, P::kDenseGate, 1));
  double draft = elements(0, P::kDraftFc, 2) + elements(0, P::kDraftHiddenNorm, 2) + elements(0, P::kDraftFinalNorm, 2);
  for (uint32_t l = 0; l < 5; ++l)
    for (const P part : {P::kDraftInputNorm, P::kDraftPostAttentionNorm, P::kDraftQ, P::kDraftK, P::kDraftV, P::kDraftO, P::kDraftQNorm, P::kDraftKNorm,
                         P::kDraftSinks, P::kDraftGate, P::kDraftUp, P::kDraftDown})
      draft += elements(l, part, 2);
  uint32_t global = 0;
  for (uint32_t l = 0; l < 70; ++l) global += synthetic_global_layer(l) ? 1 : 0;
  std::printf("draft %.0f\nglobal layers %u\ntaps %u %u %u %u %u\n", draft, global, synthetic_tap_layer(70, 0), synthetic_tap_layer(70, 1), synthetic_tap_layer(70, 2),
              synthetic_tap_layer(70, 3), synthetic_tap_layer(70, 4));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "recomputed") recomputed();
  else if (what == "shards") shards();
  else if (what == "distribution") distribution();
  else if (what == "counts") counts();
  else return 2;
  std::printf(findings == 0 ? "ok\n" : "%d findings\n", findings);
  return findings == 0 ? 0 : 1;
}
