// The whole CUDA reference against the CPU reference: rows of logits and taps of nano and of pro-synthetic slices, and sessions of the decode
// loop over both. The two are written for the same order of every sum, so bits are expected to agree and are counted; where
// they do not, the largest difference is printed and top-1 agreement decides, a differing top-1 being excused only if the CPU's two best
// logits lie closer together than twice the largest difference of the row.
// Arguments: spec files of checkpoints (write-spec.mjs); `slices` adds the pro-synthetic ones (whole width: 20 GB on the GPU, 12 GB on the host).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "core/bf16.h"
#include "core/bits.h"
#include "core/ties.h"
#include "native/cuda/load.h"
#include "native/engine/fault.h"
#include "reference/cpu/target.h"
#include "reference/fp8/device.h"
#include "reference/fp8/synthetic.h"
#include "reference/fp8/target.h"
#include "spec_file.h"

using namespace kilotoken;

namespace {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<int32_t> random_ids(size_t count, size_t vocab) {
  std::mt19937 generator(77);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(generator() % vocab);
  return ids;
}

struct Rows {
  std::vector<float> logits, taps;
  std::vector<uint8_t> touched;
};

// All rows of `ids`, cut into steps of the sizes given, the last one repeated.
Rows run(const TargetModel& target, SequenceState& state, std::span<const int32_t> ids, const std::vector<size_t>& sizes) {
  Rows rows;
  StepOutput out;
  for (size_t begin = 0, i = 0; begin < ids.size(); ++i) {
    const size_t count = std::min(sizes[std::min(i, sizes.size() - 1)], ids.size() - begin);
    target.step(state, ids.subspan(begin, count), 0, out);
    rows.logits.insert(rows.logits.end(), out.logits.begin(), out.logits.end());
    rows.taps.insert(rows.taps.end(), out.taps.begin(), out.taps.end());
    begin += count;
  }
  rows.touched = out.experts_touched;
  return rows;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void compare(const std::string& what, const Rows& cpu, const Rows& gpu, size_t vocab) {
  const size_t rows = cpu.logits.size() / vocab;
  size_t differing = 0, equal_rows = 0, same_top = 0, near_ties = 0;
  double largest = 0;
  for (size_t r = 0; r < rows; ++r) {
    const float* a = cpu.logits.data() + r * vocab;
    const float* b = gpu.logits.data() + r * vocab;
    double row_largest = 0;
    size_t row_differing = 0;
    for (size_t i = 0; i < vocab; ++i) {
      if (float_bits(a[i]) != float_bits(b[i])) ++row_differing;
      const double difference = std::fabs(static_cast<double>(a[i]) - b[i]);
      row_largest = difference <= row_largest ? row_largest : difference;  // a NaN stays
    }
    differing += row_differing;
    equal_rows += row_differing == 0;
    largest = row_largest <= largest ? largest : row_largest;
    const int top_a = argmax(a, static_cast<int>(vocab)), top_b = argmax(b, static_cast<int>(vocab));
    if (top_a == top_b) ++same_top;
    else if (a[top_a] - a[top_b] <= 2 * row_largest) ++near_ties;
  }
  std::printf("%s: %zu of %zu rows equal in every bit, %zu of %zu logits differ, largest difference %.3g, top-1 equal in %zu, near ties %zu\n",
              what.c_str(), equal_rows, rows, differing, rows * vocab, largest, same_top, near_ties);
  tally::that(gpu.logits.size() == cpu.logits.size() && gpu.taps.size() == cpu.taps.size(), "%s: sizes", what.c_str());
  tally::that(same_top + near_ties == rows, "%s: top-1 differs beyond near ties", what.c_str());
  tally::that(largest <= 1e-3, "%s: a logit differs by %.3g", what.c_str(), largest);
  tally::that(differing == 0, "%s: bits differ", what.c_str());
  tally::that(same_bits(cpu.taps, gpu.taps), "%s: taps differ", what.c_str());
}

// Steps of every size, roll-back and copies give the bits of one-row steps.
void invariance(const std::string& what, const TargetModel& target, const std::vector<int32_t>& ids) {
  const auto state = target.open();
  const Rows single = run(target, *state, ids, {1});
  for (const std::vector<size_t>& sizes : std::vector<std::vector<size_t>>{{2}, {3}, {4}, {5}, {6}, {7}, {8}, {64}, {1, 8, 3, 19, 2}}) {
    const auto other = target.open();
    const Rows rows = run(target, *other, ids, sizes);
    tally::that(same_bits(rows.logits, single.logits) && same_bits(rows.taps, single.taps), "%s: steps of %zu rows have other bits", what.c_str(), sizes[0]);
  }
  // Eight rows, of which three are kept; then the rest, on the state and on a copy made before the roll-back.
  const size_t vocab = target.vocab_size(), kept = ids.size() / 2 + 3, begin = ids.size() / 2;
  const auto rolled = target.open();
  run(target, *rolled, std::span(ids).first(begin), {64});
  std::vector<int32_t> drafts(8, 5);
  std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(begin), 3, drafts.begin());
  run(target, *rolled, drafts, {8});
  const auto copy = rolled->clone();
  for (SequenceState* s : {rolled.get(), copy.get()}) {
    s->truncate(kept);
    const Rows rows = run(target, *s, std::span(ids).subspan(kept), {4});
    tally::that(std::memcmp(rows.logits.data(), single.logits.data() + kept * vocab, rows.logits.size() * sizeof(float)) == 0,
                "%s: rows behind a roll-back have other bits%s", what.c_str(), s == copy.get() ? " (copy)" : "");
  }
  std::printf("%s: steps of 1 to 8, 19 and 64 rows, roll-back and copy compared over %zu rows\n", what.c_str(), ids.size());
}

std::vector<int32_t> decode(const Model& model, const std::vector<int32_t>& prompt, Rule rule, double temperature, size_t block, size_t tokens,
                            double* rate = nullptr) {
  Decoding decoding;
  decoding.seed = 5;
  decoding.temperature = temperature;
  decoding.max_tokens = tokens;
  SessionOptions options;
  options.block_size = block;
  options.rule = rule;
  const auto session = model.open(prompt, decoding, options);
  std::vector<int32_t> out;
  double start = 0;
  while (!session->finished()) {
    const Round round = session->step();
    if (round.prefill) start = seconds();
    out.insert(out.end(), round.committed.begin(), round.committed.end());
  }
  if (rate != nullptr) *rate = static_cast<double>(out.size() - 1) / (seconds() - start);
  return out;
}

void sessions(const std::string& what, const Model& cpu, const Model& gpu) {
  const std::vector<int32_t> prompt = random_ids(40, cpu.vocab_size());
  const struct {
    const char* name;
    Rule rule;
    double temperature;
  } kinds[] = {{"greedy", Rule::kMatch, 0}, {"match", Rule::kMatch, 1}, {"coupled", Rule::kCoupled, 1}, {"reject", Rule::kReject, 1}};
  for (const auto& [name, rule, temperature] : kinds) {
    double rate = 0;
    const auto plain = decode(gpu, prompt, rule, temperature, 1, 300, &rate);
    tally::that(plain == decode(cpu, prompt, rule, temperature, 1, 300), "%s %s: plain tokens differ from the CPU's", what.c_str(), name);
    std::printf("%s %s: plain %zu tokens, %.0f tokens/s on the GPU", what.c_str(), name, plain.size(), rate);
    if (gpu.draft_block_size() > 1) {
      const auto speculative = decode(gpu, prompt, rule, temperature, gpu.draft_block_size(), 300, &rate);
      tally::that(speculative == decode(cpu, prompt, rule, temperature, cpu.draft_block_size(), 300), "%s %s: speculative tokens differ from the CPU's",
                  what.c_str(), name);
      if (rule != Rule::kReject) tally::that(speculative == plain, "%s %s: speculation changes the tokens", what.c_str(), name);
      std::printf("; speculative (draft on the CPU) %.0f tokens/s", rate);
    }
    std::printf("\n");
  }
}

void checkpoint(const std::string& path) {
  for (const Activations activations : {Activations::kFp8, Activations::kBf16}) {
    ModelSpec spec = read_spec(path);
    spec.activations = activations;
    const std::string what = path + (activations == Activations::kFp8 ? " act=fp8" : " act=bf16");
    const auto cpu = Model::load(spec), gpu = load_reference_cuda(spec);
    const std::vector<int32_t> ids = random_ids(400, spec.target.vocab);
    const auto cpu_state = cpu->target_model()->open(), gpu_state = gpu->target_model()->open();
    compare(what, run(*cpu->target_model(), *cpu_state, ids, {64}), run(*gpu->target_model(), *gpu_state, ids, {64}), spec.target.vocab);
    invariance(what, *gpu->target_model(), random_ids(200, spec.target.vocab));
    sessions(what, *cpu, *gpu);
  }
}

// ---- pro-synthetic: the CPU reference over the bytes that core/synthetic.h gives, with the experts the GPU chose ----

std::vector<uint8_t> stored(const SyntheticShape& shape, SyntheticShard shard, uint32_t layer, SyntheticPart part, size_t group = 0) {
  const SyntheticTensor t = synthetic_tensor(shape, shard, layer, part);
  const size_t rows = t.groups > 1 ? t.rows : static_cast<size_t>(t.groups) * t.rows;
  std::vector<uint8_t> bytes(rows * t.bytes);
  synthetic_rows(1, t, group * t.rows, rows, bytes.data());
  return bytes;
}

std::vector<float> widened(const LinearWeights& w) {
  std::vector<float> values(w.cols);
  for (size_t i = 0; i < w.cols; ++i) values[i] = w.codes.empty() ? w.values[i] : bf16_to_float(w.codes[i]);
  return values;
}

struct Slice {
  SyntheticShape whole;
  SyntheticShard shard;
  SyntheticShape part() const { return synthetic_shard_shape(whole, shard); }

  LinearWeights bf16(uint32_t layer, SyntheticPart p, size_t rows, size_t cols) const { return linear_from_bf16(stored(whole, shard, layer, p).data(), rows, cols); }
  LinearWeights f32(uint32_t layer, SyntheticPart p, size_t rows, size_t cols) const { return linear_from_f32(stored(whole, shard, layer, p).data(), rows, cols); }
  LinearWeights quantised(uint32_t layer, SyntheticPart p, size_t rows, size_t cols, size_t groups, bool mxfp4, size_t expert = 0) const {
    const auto scale_part = static_cast<SyntheticPart>(static_cast<uint32_t>(p) + 1);
    const std::vector<uint8_t> codes = stored(whole, shard, layer, p, expert), scales = stored(whole, shard, layer, scale_part, expert);
    if (mxfp4) return linear_from_mxfp4(codes.data(), scales.data(), rows, cols);
    return linear_from_fp8(codes.data(), reinterpret_cast<const float*>(scales.data()), rows, cols, groups);
  }

  // touched: [mixture layers][experts]; experts that nobody chose stay empty.
  TargetWeights weights(const std::vector<uint8_t>& touched) const {
    using P = SyntheticPart;
    const SyntheticShape s = part();
    const size_t hidden = s.hidden, q = s.q_heads * s.head_dim, k = s.kv_heads * s.head_dim, v = s.kv_heads * s.v_head_dim;
    TargetWeights w;
    w.embedding = std::make_shared<const LinearWeights>(bf16(0, P::kEmbedding, s.vocab, hidden));
    w.head = std::make_shared<const LinearWeights>(bf16(0, P::kHead, s.vocab, hidden));
    w.final_norm = widened(bf16(0, P::kFinalNorm, 1, hidden));
    for (uint32_t l = 0; l < s.layers; ++l) {
      LayerWeights layer;
      layer.input_norm = widened(bf16(l, P::kInputNorm, 1, hidden));
      layer.post_attention_norm = widened(bf16(l, P::kPostAttentionNorm, 1, hidden));
      QkvWeights qkv = split_fused_qkv(quantised(l, P::kQkv, q + k + v, hidden, s.kv_heads, false), s.kv_heads, q, k, v);
      layer.attention.q = std::move(qkv.q);
      layer.attention.k = std::move(qkv.k);
      layer.attention.v = std::move(qkv.v);
      layer.attention.o = bf16(l, P::kO, hidden, s.q_heads * s.v_head_dim);
      if (!synthetic_global_layer(l)) layer.attention.sinks = widened(bf16(l, P::kSinks, 1, s.q_heads));
      if (l == 0) {
        layer.dense = {quantised(l, P::kDenseGate, s.dense_width, hidden, 1, false), quantised(l, P::kDenseUp, s.dense_width, hidden, 1, false),
                       quantised(l, P::kDenseDown, hidden, s.dense_width, 1, false)};
      } else {
        layer.mixture.router = f32(l, P::kRouter, s.experts, hidden);
        layer.mixture.correction_bias = widened(f32(l, P::kCorrectionBias, 1, s.experts));
        layer.mixture.experts.resize(s.experts);
        for (uint32_t e = 0; e < s.experts; ++e) {
          if (touched[(l - 1) * s.experts + e] == 0) continue;
          const bool mxfp4 = !s.fp8_experts;
          layer.mixture.experts[e] = {quantised(l, P::kGate, s.expert_width, hidden, 1, mxfp4, e), quantised(l, P::kUp, s.expert_width, hidden, 1, mxfp4, e),
                                      quantised(l, P::kDown, hidden, s.expert_width, 1, mxfp4, e)};
        }
      }
      w.layers.push_back(std::move(layer));
    }
    return w;
  }
};

void slice(const Slice& from, size_t tokens) {
  const SyntheticShape s = from.part();
  char what[96];
  std::snprintf(what, sizeof what, "pro-synthetic %u layers, rank %u of %u, %s experts", s.layers, from.shard.rank, from.shard.of, s.fp8_experts ? "fp8" : "mxfp4");
  SyntheticSpec spec;
  spec.shape = from.whole;
  spec.shard = from.shard;
  spec.max_context = 4096;
  double start = seconds();
  const auto gpu = load_reference_cuda(spec);
  std::printf("%s: made in %.2f s\n", what, seconds() - start);
  const std::vector<int32_t> ids = random_ids(tokens, s.vocab);
  const auto gpu_state = gpu->target_model()->open();
  const Rows rows = run(*gpu->target_model(), *gpu_state, ids, {tokens});
  for (uint32_t l = 1; l < s.layers; ++l)
    std::printf("%s: layer %u, %zu tokens touch %ld distinct experts\n", what, l, tokens,
                static_cast<long>(std::count(rows.touched.begin() + (l - 1) * s.experts, rows.touched.begin() + l * s.experts, uint8_t{1})));
  double squares = 0;
  for (const float logit : rows.logits) squares += static_cast<double>(logit) * logit;
  std::printf("%s: root mean square of the logits %.3f\n", what, std::sqrt(squares / static_cast<double>(rows.logits.size())));

  size_t count = 0;
  const Ops* const* tables = available_ops(&count);
  if (!tally::that(count > 0, "%s: this processor cannot run the CPU reference", what)) return;
  const Target cpu(*tables[0], spec.activations, fp8::synthetic_plan(from.whole, from.shard, 4096), from.weights(rows.touched), {});
  const auto cpu_state = cpu.open();
  const Rows expected = run(cpu, *cpu_state, ids, {tokens});
  tally::that(expected.touched == rows.touched, "%s: the CPU chooses other experts", what);
  compare(what, expected, rows, s.vocab);
  double rate = 0;
  decode(*gpu, ids, Rule::kMatch, 1.0, 1, 64, &rate);
  std::printf("%s: %.1f tokens/s in plain decoding\n", what, rate);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    fp8::require_device();
    for (int i = 1; i < argc; ++i) {
      if (std::string(argv[i]) != "slices") {
        checkpoint(argv[i]);
        continue;
      }
      SyntheticShape shape;
      shape.layers = 3;
      slice({shape, {3, 8}}, 8);
      shape.fp8_experts = true;
      slice({shape, {7, 8}}, 8);
      shape.fp8_experts = false;
      shape.layers = 2;
      slice({shape, {0, 1}}, 3);
    }
  } catch (const fp8::DeviceLack& lack) {
    std::fprintf(stderr, "error: %s\n", lack.what());
    return 3;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "internal error: %s\n", error.what());
    return 70;
  }
  return tally::finish("reference rows");
}
