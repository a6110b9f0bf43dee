// The weights of a `pro-synthetic` model: every stored byte is a pure function of (seed, tensor, place in the tensor), so any slice of
// a 1 T parameter model can be made on any device, and any row of it made again elsewhere. A tensor is a row of 32-bit
// little-endian words as a checkpoint stores them (codes, nibbles, scales); word i is
//   (philox4x32(counter = (i / 4, kSyntheticDomain, tensor id, 0), key = seed)[i % 4] & mask) + base
// where mask and base, one pair per tensor, keep the bits that vary and add the smallest code: no table, no rounding, no carry
// from one element into the next. Philox4x32-10 is far better than weights need (bits that are balanced and independent along
// rows, columns and tensors; a weaker hash shows as low-rank structure, and so as correlated routing); its 60-odd integer instructions
// a 16 bytes are still fewer than a GPU has while it writes them.
//   E4M3        sign, 64 codes from 1.875 to 448 in equal steps of the code; scale of a block 2^e (1 + u), u of 23 bits
//   E2M1        all 16 codes alike; scale of 32 elements 2^e or 2^(e + 1)
//   BF16, F32   sign, full mantissa, four octaves from 2^e
//   norms       BF16 from 0.75 to 1.49
// Exponents e are chosen per tensor so that with unit rows in: q, k, v, gate and up have a standard deviation near 1, router logits
// near 1, head logits near 4, what an attention or feed-forward branch adds below half of an embedding row. Pre-norm residuals then grow
// like the square root of depth and rows stay a token's own, so that tokens choose experts nearly independently. Seen on 70 layers of
// the CPU reference at a reduced width (hidden 1024, 96 experts, 192 random tokens): root mean square 0.9 behind layer 0, 4.8 behind
// layer 69; cosine of neighbouring rows below 0.1; 8 tokens touch 46.5 to 48.5 experts of a layer, independent choice gives 48.1.
// The correction bias, at most 1/64, tilts an expert's load by some tens of percent.
// A shard holds the very bytes of its part of the whole tensor: rank r of n takes query heads and key/value groups, expert and
// dense columns of width / n, rows of embedding and head of vocab / n; norms, router, and the draft's fc are whole.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hd.h"
#include "philox.h"

namespace kilotoken {

inline constexpr uint32_t kSyntheticDomain = 0x77676874u;  // in the place of a Stream number; no stream has it

// Counts and widths of the whole model; the defaults are the published 1.02 T shape. Dimensions along k are multiples of 128.
struct SyntheticShape {
  uint32_t layers = 70;
  uint32_t hidden = 6144;
  uint32_t q_heads = 128;
  uint32_t kv_heads = 8;  // also the groups [Q | K | V] of the fused projection
  uint32_t head_dim = 192;
  uint32_t v_head_dim = 128;
  uint32_t rotary_dim = 64;
  uint32_t window = 128;
  uint32_t experts = 384;
  uint32_t experts_per_token = 8;
  uint32_t expert_width = 2048;
  uint32_t dense_width = 16384;  // of layer 0
  uint32_t vocab = 152576;
  bool fp8_experts = false;  // E4M3 with a scale per 128 x 128 in the place of MXFP4
  uint32_t draft_layers = 5;
  uint32_t draft_head_dim = 128;  // of q, k and v
  uint32_t draft_width = 16384;
  uint32_t draft_taps = 5;
};

// Layers without a window: 10 of 70, the first and the last among them. A slice of N layers has the first N.
KT_HD constexpr bool synthetic_global_layer(uint32_t layer) {
  const uint32_t l = layer % 70;
  return l == 0 || l == 7 || l == 15 || l == 23 || l == 31 || l == 39 || l == 47 || l == 55 || l == 62 || l == 69;
}

// The target layer behind which tap t is taken: 0, 15, 31, 47, 69 of 70 layers, and as far along in a slice.
KT_HD constexpr uint32_t synthetic_tap_layer(uint32_t layers, uint32_t tap) {
  constexpr uint32_t kOf70[5] = {0, 15, 31, 47, 69};
  return kOf70[tap % 5] * (layers - 1) / 69;
}

struct SyntheticShard {
  uint32_t rank = 0;
  uint32_t of = 1;
};

// Values are part of a tensor's id: append, never renumber. Scales follow their codes.
enum class SyntheticPart : uint32_t {
  // Once a model.
  kEmbedding = 0,
  kHead = 1,
  kFinalNorm = 2,
  // Each target layer.
  kInputNorm = 8,
  kPostAttentionNorm = 9,
  kQkv = 10,  // [kv_heads groups of Q | K | V rows][hidden], E4M3
  kQkvScale = 11,  // [kv_heads * ceil(group rows / 128)][hidden / 128], F32
  kO = 12,  // [hidden][q_heads * v_head_dim], BF16
  kSinks = 13,  // [q_heads], BF16; windowed layers only
  kDenseGate = 16,  // layer 0
  kDenseGateScale = 17,
  kDenseUp = 18,
  kDenseUpScale = 19,
  kDenseDown = 20,
  kDenseDownScale = 21,
  kRouter = 24,  // [experts][hidden], F32
  kCorrectionBias = 25,  // [experts], F32
  kGate = 26,  // [experts][expert_width][hidden]; one tensor for all experts of a layer
  kGateScale = 27,
  kUp = 28,
  kUpScale = 29,
  kDown = 30,  // [experts][hidden][expert_width]
  kDownScale = 31,
  // The draft, all BF16; layer counts its own layers.
  kDraftFc = 40,  // [hidden][taps * hidden]
  kDraftHiddenNorm = 41,
  kDraftFinalNorm = 42,
  kDraftMaskEmbedding = 43,  // [hidden]
  kDraftInputNorm = 48,
  kDraftPostAttentionNorm = 49,
  kDraftQ = 50,
  kDraftK = 51,
  kDraftV = 52,
  kDraftO = 53,
  kDraftQNorm = 54,  // [head_dim]
  kDraftKNorm = 55,
  kDraftSinks = 56,
  kDraftGate = 57,
  kDraftUp = 58,
  kDraftDown = 59,
};

// One tensor as a shard sees it. A tensor is `groups` matrices (experts, or 1) of `whole_rows` rows of `whole_bytes` bytes each; of
// every matrix the shard has rows [first_row, first_row + rows) and of those bytes [first_byte, first_byte + bytes), tightly packed.
struct SyntheticTensor {
  uint32_t id = 0;
  uint32_t mask = 0, base = 0;
  uint32_t groups = 1;
  uint32_t whole_rows = 0, first_row = 0, rows = 0;
  uint32_t whole_bytes = 0, first_byte = 0, bytes = 0;  // multiples of 4

  KT_HD constexpr uint64_t size() const { return static_cast<uint64_t>(groups) * rows * bytes; }  // bytes of the shard
  // True if the shard is made of whole 16-byte blocks, so that one Philox call gives 16 stored bytes.
  KT_HD constexpr bool blockwise() const { return (whole_bytes | first_byte | bytes) % 16 == 0; }
  // The word of the whole tensor that is word i of the shard.
  KT_HD constexpr uint32_t whole_word(uint64_t i) const {
    const uint64_t row_words = bytes / 4, row = i / row_words, column = i % row_words;
    const uint64_t whole_row = row / rows * whole_rows + first_row + row % rows;
    return static_cast<uint32_t>((whole_row * whole_bytes + first_byte) / 4 + column);
  }
};

// Words 4 block .. 4 block + 3 of the whole tensor.
KT_HD constexpr PhiloxWords synthetic_block(uint64_t seed, const SyntheticTensor& t, uint32_t block) {
  PhiloxWords w = philox4x32(PhiloxWords{{block, kSyntheticDomain, t.id, 0}}, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  for (int i = 0; i < 4; ++i) w.x[i] = (w.x[i] & t.mask) + t.base;
  return w;
}

// Word i of the shard.
KT_HD constexpr uint32_t synthetic_word(uint64_t seed, const SyntheticTensor& t, uint64_t i) {
  const uint32_t word = t.whole_word(i);
  return synthetic_block(seed, t, word / 4).x[word % 4];
}

// Byte i of the shard.
KT_HD constexpr uint8_t synthetic_byte(uint64_t seed, const SyntheticTensor& t, uint64_t i) {
  return static_cast<uint8_t>(synthetic_word(seed, t, i / 4) >> (8 * (i % 4)));
}

// Rows [first, first + count) of the shard, all groups counted on, into out: [count][t.bytes].
KT_HD inline void synthetic_rows(uint64_t seed, const SyntheticTensor& t, uint64_t first, uint64_t count, uint8_t* out) {
  const uint64_t words = t.bytes / 4;
  PhiloxWords made{};
  uint32_t made_block = 0;
  bool any = false;
  for (uint64_t i = first * words; i < (first + count) * words; ++i) {
    const uint32_t word = t.whole_word(i);
    if (!any || word / 4 != made_block) {
      made_block = word / 4;
      made = synthetic_block(seed, t, made_block);
      any = true;
    }
    for (int b = 0; b < 4; ++b) *out++ = static_cast<uint8_t>(made.x[word % 4] >> (8 * b));
  }
}

// ---- magnitudes and layouts, computed on the host ----

// Mean squares of the stored forms with e = 0; test/cpu/cuda/synthetic.test.ts recomputes them.
inline constexpr double kSyntheticE4m3 = 19866.363525390625;  // of the 64 code values
inline constexpr double kSyntheticFp8Scale = 7.0 / 3.0;
inline constexpr double kSyntheticE2m1 = 8.5625;
inline constexpr double kSyntheticE8m0 = 2.5;
inline constexpr double kSyntheticWide = 21.25 * 7.0 / 3.0;  // BF16 and F32

// The exponent e for which unit * 4^e comes nearest (in ratio) to the mean square asked for.
constexpr int synthetic_exponent(double mean_square, double unit) {
  int e = 0;
  double value = unit;
  while (value > 2.0 * mean_square) value /= 4.0, --e;
  while (value < 0.5 * mean_square) value *= 4.0, ++e;
  return e;
}

namespace synthetic_detail {

enum class Form { kE4m3, kFp8Scale, kE2m1, kE8m0, kBf16, kF32, kNorm };

// `mean_square`: of the weight after its scale; scales carry it, codes ignore it.
constexpr void set_form(SyntheticTensor& t, Form form, double mean_square) {
  const auto exponent = [&](double unit) { return static_cast<uint32_t>(127 + synthetic_exponent(mean_square, unit)); };
  switch (form) {
    case Form::kE4m3: t.mask = 0xbfbfbfbfu, t.base = 0x3f3f3f3fu; break;
    case Form::kFp8Scale: t.mask = 0x007fffffu, t.base = exponent(kSyntheticE4m3 * kSyntheticFp8Scale) << 23; break;
    case Form::kE2m1: t.mask = 0xffffffffu, t.base = 0; break;
    case Form::kE8m0: t.mask = 0x01010101u, t.base = exponent(kSyntheticE2m1 * kSyntheticE8m0) * 0x01010101u; break;
    case Form::kBf16: t.mask = 0x81ff81ffu, t.base = (exponent(kSyntheticWide) << 7) * 0x00010001u; break;
    case Form::kF32: t.mask = 0x81ffffffu, t.base = exponent(kSyntheticWide) << 23; break;
    case Form::kNorm: t.mask = 0x007f007fu, t.base = 0x3f403f40u; break;
  }
}

enum class Split { kNone, kRows, kColumns };

struct Matrix {
  uint32_t groups, rows, cols;
  Split split;
  double mean_square;
};

constexpr uint32_t blocks_of(uint32_t n) { return (n + 127) / 128; }

}  // namespace synthetic_detail

constexpr SyntheticTensor synthetic_tensor(const SyntheticShape& s, SyntheticShard shard, uint32_t layer, SyntheticPart part) {
  using namespace synthetic_detail;
  using P = SyntheticPart;
  SyntheticTensor t;
  t.id = layer << 8 | static_cast<uint32_t>(part);
  // bits_per: of one stored element.
  const auto lay = [&](Matrix m, uint32_t bits_per, Form form) {
    t.groups = m.groups;
    t.whole_rows = m.rows;
    t.whole_bytes = static_cast<uint32_t>(static_cast<uint64_t>(m.cols) * bits_per / 8);
    t.rows = m.split == Split::kRows ? m.rows / shard.of : m.rows;
    t.first_row = m.split == Split::kRows ? t.rows * shard.rank : 0;
    t.bytes = m.split == Split::kColumns ? t.whole_bytes / shard.of : t.whole_bytes;
    t.first_byte = m.split == Split::kColumns ? t.bytes * shard.rank : 0;
    set_form(t, form, m.mean_square);
    return t;
  };
  const auto bf16 = [&](Matrix m) { return lay(m, 16, Form::kBf16); };
  const auto f32 = [&](Matrix m) { return lay(m, 32, Form::kF32); };
  const auto norm = [&](uint32_t width) { return lay({1, 1, width, Split::kNone, 1.0}, 16, Form::kNorm); };
  const auto fp8_codes = [&](Matrix m) { return lay(m, 8, Form::kE4m3); };
  const auto fp8_scales = [&](Matrix m) {
    m.rows = blocks_of(m.rows), m.cols = blocks_of(m.cols);
    return lay(m, 32, Form::kFp8Scale);
  };
  const auto expert_codes = [&](Matrix m) { return s.fp8_experts ? fp8_codes(m) : lay(m, 4, Form::kE2m1); };
  const auto expert_scales = [&](Matrix m) {
    if (s.fp8_experts) return fp8_scales(m);
    m.cols /= 32;
    return lay(m, 8, Form::kE8m0);
  };

  const uint32_t group_rows = s.q_heads / s.kv_heads * s.head_dim + s.head_dim + s.v_head_dim;
  const uint32_t o_cols = s.q_heads * s.v_head_dim, draft_q = s.q_heads * s.draft_head_dim, draft_kv = s.kv_heads * s.draft_head_dim;
  const double unit = 1.0 / s.hidden;  // mean square that gives unit rows from unit rows
  const Matrix qkv{1, s.kv_heads * group_rows, s.hidden, Split::kRows, unit};
  const Matrix dense_in{1, s.dense_width, s.hidden, Split::kRows, unit}, dense_out{1, s.hidden, s.dense_width, Split::kColumns, 0.25 / s.dense_width};
  const Matrix expert_in{s.experts, s.expert_width, s.hidden, Split::kRows, unit};
  const Matrix expert_out{s.experts, s.hidden, s.expert_width, Split::kColumns, 2.0 / s.expert_width};
  const Matrix draft_in{1, s.draft_width, s.hidden, Split::kRows, unit}, draft_out{1, s.hidden, s.draft_width, Split::kColumns, 0.25 / s.draft_width};

  switch (part) {
    case P::kEmbedding: return bf16({1, s.vocab, s.hidden, Split::kRows, 1.0});
    case P::kHead: return bf16({1, s.vocab, s.hidden, Split::kRows, 16.0 * unit});
    case P::kFinalNorm:
    case P::kInputNorm:
    case P::kPostAttentionNorm:
    case P::kDraftHiddenNorm:
    case P::kDraftFinalNorm:
    case P::kDraftInputNorm:
    case P::kDraftPostAttentionNorm: return norm(s.hidden);
    case P::kQkv: return fp8_codes(qkv);
    case P::kQkvScale: return lay({1, s.kv_heads * blocks_of(group_rows), blocks_of(s.hidden), Split::kRows, unit}, 32, Form::kFp8Scale);
    case P::kO: return bf16({1, s.hidden, o_cols, Split::kColumns, 0.25 / o_cols});
    case P::kSinks:
    case P::kDraftSinks: return bf16({1, 1, s.q_heads, Split::kColumns, 2.0});
    case P::kDenseGate:
    case P::kDenseUp: return fp8_codes(dense_in);
    case P::kDenseGateScale:
    case P::kDenseUpScale: return fp8_scales(dense_in);
    case P::kDenseDown: return fp8_codes(dense_out);
    case P::kDenseDownScale: return fp8_scales(dense_out);
    case P::kRouter: return f32({1, s.experts, s.hidden, Split::kNone, unit});
    case P::kCorrectionBias: return f32({1, 1, s.experts, Split::kNone, 0.00005});
    case P::kGate:
    case P::kUp: return expert_codes(expert_in);
    case P::kGateScale:
    case P::kUpScale: return expert_scales(expert_in);
    case P::kDown: return expert_codes(expert_out);
    case P::kDownScale: return expert_scales(expert_out);
    case P::kDraftFc: return bf16({1, s.hidden, s.draft_taps * s.hidden, Split::kNone, unit / s.draft_taps});
    case P::kDraftMaskEmbedding: return bf16({1, 1, s.hidden, Split::kNone, 1.0});
    case P::kDraftQ: return bf16({1, draft_q, s.hidden, Split::kRows, unit});
    case P::kDraftK:
    case P::kDraftV: return bf16({1, draft_kv, s.hidden, Split::kRows, unit});
    case P::kDraftO: return bf16({1, s.hidden, draft_q, Split::kColumns, 0.25 / draft_q});
    case P::kDraftQNorm:
    case P::kDraftKNorm: return norm(s.draft_head_dim);
    case P::kDraftGate:
    case P::kDraftUp: return bf16(draft_in);
    case P::kDraftDown: return bf16(draft_out);
  }
  return t;
}

// Null if the shape can be sharded so that every rank holds whole heads, whole FP8 scale blocks, whole MXFP4 blocks and whole
// words; else what does not fit.
constexpr const char* synthetic_misfit(const SyntheticShape& s, SyntheticShard shard) {
  if (shard.of == 0 || shard.rank >= shard.of) return "a rank outside the ranks";
  if (s.layers == 0 || s.layers > 4096) return "layers outside 1 .. 4096";
  if (s.hidden % 128 != 0 || s.head_dim % 2 != 0 || s.rotary_dim > s.head_dim || s.rotary_dim % 2 != 0) return "a hidden width or head that does not fit";
  if (s.kv_heads == 0 || s.q_heads % s.kv_heads != 0 || s.kv_heads % shard.of != 0) return "key/value heads that do not divide among ranks";
  if (s.q_heads / shard.of * 2 % 4 != 0 || s.experts == 0 || s.experts_per_token == 0 || s.experts_per_token > s.experts) return "heads or experts that do not fit";
  if (s.expert_width % (128 * shard.of) != 0 || s.dense_width % (128 * shard.of) != 0 || s.draft_width % (128 * shard.of) != 0) return "a feed-forward width that does not divide among ranks in blocks of 128";
  if (s.draft_taps == 0 || s.draft_taps > 5) return "taps outside 1 .. 5";
  if (s.vocab % shard.of != 0) return "a vocabulary that does not divide among ranks";
  return nullptr;
}

// The shape of what one rank holds, as a model of its own: fewer heads, narrower layers, fewer tokens.
constexpr SyntheticShape synthetic_shard_shape(SyntheticShape s, SyntheticShard shard) {
  s.q_heads /= shard.of;
  s.kv_heads /= shard.of;
  s.expert_width /= shard.of;
  s.dense_width /= shard.of;
  s.vocab /= shard.of;
  s.draft_width /= shard.of;
  return s;
}

}  // namespace kilotoken
