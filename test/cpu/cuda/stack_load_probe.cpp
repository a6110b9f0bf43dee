// The way of weights into the stack, on a machine without a GPU (host/cuda_runtime.h): loads models and reads every expert's pages back, element by element, against
// the decoding of the CPU engine or the formula. Prints one line a finding and a line of counts at the end. Arguments:
//   checkpoint SPEC   a checkpoint (test/gpu/write-spec.mjs)
//   slices            pro-synthetic shapes, whole and as ranks
//   shapes FILE       every small shape of experts, in both formats: held exactly, or refused by the rule that is stated here again. FILE is written
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "core/bf16.h"
#include "core/e2m1.h"
#include "core/e4m3.h"
#include "core/e8m0.h"
#include "core/mxfp4.h"
#include "kernels/model.h"
#include "kernels/synthetic/source.h"
#include "native/cuda/stack_source.h"
#include "native/engine/fault.h"
#include "native/engine/tensors.h"
#include "test/gpu/spec_file.h"

namespace kilotoken::stack {
cudaError_t prepare_kernel() { return cudaSuccess; }  // of kernels/persistent/kernel.cu, which is not part of this program
}  // namespace kilotoken::stack

using namespace kilotoken;
using namespace kilotoken::stack;

namespace {

int findings = 0;
size_t compared = 0;

template <class... T>
void report(const char* format, T... values) {
  if (++findings <= 10) std::printf(format, values...);
}

enum class Projection { kGate, kUp, kDown };
// An expert's projection, decoded by somebody else: [rows][k].
using Expected = std::function<std::vector<double>(int layer, Projection, int expert)>;

// The inverse of first_bits and second_bits.
uint8_t nibble(uint8_t byte, bool second) {
  return second ? static_cast<uint8_t>((byte >> 2 & 8) | (byte >> 4 & 4) | (byte & 3)) : static_cast<uint8_t>((byte >> 4 & 8) | (byte >> 2 & 7));
}

float float_at(const uint8_t* bytes) {
  float x;
  std::memcpy(&x, bytes, sizeof x);
  return x;
}

double mxfp4(const uint8_t* page, Nibble at, int scale_at) {
  return static_cast<double>(e2m1_to_float(nibble(page[at.byte], at.second))) * e8m0_to_float(page[scale_at]);
}

// Row of a tile of gate and up rows, and its k of a page.
double up_element(const ExpertsUpArgs& args, const uint8_t* page, int row, int k) {
  if (args.storage == Storage::kMxfp4) return mxfp4(page, up_nibble(row, k, args.page_k), up_scale_offset(row, k, args.page_k));
  return static_cast<double>(e4m3_to_float(page[e4m3_offset(row, k)])) * float_at(page + kCodeBytes + (k / 128 * 2 + row % 16 / 8) * 4);
}

double down_element(const ExpertsDownArgs& args, const uint8_t* unit, int row, int k) {
  if (args.storage == Storage::kMxfp4) return mxfp4(unit, down_nibble(row, k), down_scale_offset(row, k));
  return static_cast<double>(e4m3_to_float(unit[e4m3_offset(row, k)])) * float_at(unit + down_code_bytes(Storage::kE4m3));
}

void compare(const char* what, int layer, int expert, int row, int k, double found, double expected) {
  ++compared;
  if (found != expected) report("layer %d, expert %d, %s, row %d, k %d: %.9g, expected %.9g\n", layer, expert, what, row, k, found, expected);
}

// All experts of a loaded model. `layers`: the mixtures among its layers, in order.
void read_back(const Model& model, const std::vector<int>& layers, const Expected& expected) {
  const Caches caches = model.make_caches();
  int verify = 0;
  size_t ups = 0, downs = 0;
  const int hidden = model.target.hidden;
  for (const Instruction& ins : model.instructions(caches, verify)) {
    if (ins.op == Op::kExpertsUp) {
      const ExpertsUpArgs& args = ins.up;
      const int layer = layers.at(ups++);
      const int width = model.target.layers[static_cast<size_t>(layer)].ffn_width;
      if (args.tiles * kUpperHalf != width || args.segments * args.pages_per_segment * args.page_k != hidden) report("layer %d: pages that do not cover the experts\n", layer);
      const size_t bytes = static_cast<size_t>(up_page_bytes(args.storage, args.page_k));
      for (int e = 0; e < args.experts; ++e) {
        const std::vector<double> gate = expected(layer, Projection::kGate, e), up = expected(layer, Projection::kUp, e);
        for (int row = 0; row < width; ++row) {
          // By turns of eight: gate, up.
          const int tile = row / kUpperHalf, in_tile = row % kUpperHalf / 8 * 16 + row % 8;
          for (int k = 0; k < hidden; ++k) {
            const uint8_t* page = args.pages + ((static_cast<size_t>(e) * args.tiles + tile) * args.segments * args.pages_per_segment + k / args.page_k) * bytes;
            compare("gate", layer, e, row, k, up_element(args, page, in_tile, k % args.page_k), gate.at(static_cast<size_t>(row) * hidden + k));
            compare("up", layer, e, row, k, up_element(args, page, in_tile + 8, k % args.page_k), up.at(static_cast<size_t>(row) * hidden + k));
          }
        }
      }
    }
    if (ins.op == Op::kExpertsDown) {
      const ExpertsDownArgs& args = ins.down;
      const int layer = layers.at(downs++), width = args.units / args.tiles * kDownK;
      if (args.tiles * kTileRows != hidden || width != model.target.layers[static_cast<size_t>(layer)].ffn_width)
        report("layer %d: units that do not cover the experts\n", layer);
      // Who makes what (kernels/ops/experts_down.cuh): every unit has one block, and a block's units lie in one slice of k.
      const int each = args.passes * args.units_per_pass;
      if (each * model.blocks < args.units || args.tiles % each != 0 || args.units_per_pass > kMaxDownUnits)
        report("layer %d: %d units, %d a block of %d\n", layer, args.units, each, model.blocks);
      if (args.experts_per_page * args.units_per_pass * down_unit_bytes(args.storage) > kPageBytes) report("layer %d: units beyond a page\n", layer);
      for (int e = 0; e < args.experts; ++e) {
        const std::vector<double> down = expected(layer, Projection::kDown, e);
        for (int row = 0; row < hidden; ++row) {
          for (int k = 0; k < width; ++k) {
            const size_t unit = static_cast<size_t>(e) * args.units + static_cast<size_t>(k / kDownK) * args.tiles + row / kTileRows;
            compare("down", layer, e, row, k, down_element(args, args.pages + unit * down_unit_bytes(args.storage), row % kTileRows, k % kDownK),
                    down.at(static_cast<size_t>(row) * width + k));
          }
        }
      }
    }
  }
  if (ups != layers.size() || downs != layers.size()) report("%zu and %zu expert instructions for %zu mixtures\n", ups, downs, layers.size());
}

std::vector<int> mixtures(const TargetShape& target) {
  std::vector<int> layers;
  for (size_t l = 0; l < target.layers.size(); ++l)
    if (target.layers[l].mixture) layers.push_back(static_cast<int>(l));
  return layers;
}

// As the CPU engine decodes them.
class FromReader {
 public:
  explicit FromReader(const ModelSpec& spec) : spec_(spec), reader_(spec.tensors, "") {}

  std::vector<double> operator()(int layer, Projection projection, int expert) {
    constexpr const char* kNames[] = {"gate_proj", "up_proj", "down_proj"};
    const size_t width = spec_.target.layers[static_cast<size_t>(layer)].ffn_width, hidden = spec_.target.hidden;
    const size_t rows = projection == Projection::kDown ? hidden : width, cols = projection == Projection::kDown ? width : hidden;
    const LinearWeights w = reader_.linear(
        "model.layers." + std::to_string(layer) + ".mlp.experts." + std::to_string(expert) + "." + kNames[static_cast<int>(projection)], rows, cols);
    std::vector<double> out;
    for (size_t row = 0; row < rows; ++row) {
      for (size_t k = 0; k < cols; ++k) {
        const double scale = w.scales.empty() ? 1.0 : w.scales[w.scale_row[row] * w.scale_cols + k / 128];
        out.push_back(static_cast<double>(bf16_to_float(w.codes[row * w.stride + k])) * scale);
      }
    }
    return out;
  }

 private:
  const ModelSpec& spec_;
  TensorReader reader_;
};

// From the formula.
class FromFormula {
 public:
  FromFormula(uint64_t seed, const SyntheticShape& shape, SyntheticShard shard) : seed_(seed), shape_(shape), shard_(shard) {}

  std::vector<double> operator()(int layer, Projection projection, int expert) const {
    using P = SyntheticPart;
    constexpr P kCodes[] = {P::kGate, P::kUp, P::kDown}, kScales[] = {P::kGateScale, P::kUpScale, P::kDownScale};
    const auto bytes = [&](P part, uint32_t& of_row) {
      const SyntheticTensor t = synthetic_tensor(shape_, shard_, static_cast<uint32_t>(layer), part);
      std::vector<uint8_t> out(static_cast<size_t>(t.rows) * t.bytes);
      synthetic_rows(seed_, t, static_cast<uint64_t>(expert) * t.rows, t.rows, out.data());
      of_row = t.bytes;
      return out;
    };
    uint32_t code_row = 0, scale_row = 0;
    const std::vector<uint8_t> codes = bytes(kCodes[static_cast<int>(projection)], code_row), scales = bytes(kScales[static_cast<int>(projection)], scale_row);
    std::vector<double> out;
    for (size_t row = 0; row < codes.size() / code_row; ++row) {
      const uint8_t* of_row = codes.data() + row * code_row;
      for (size_t k = 0; k < (shape_.fp8_experts ? code_row : 2 * code_row); ++k) {
        if (shape_.fp8_experts) out.push_back(static_cast<double>(e4m3_to_float(of_row[k])) * float_at(scales.data() + row / 128 * scale_row + k / 128 * 4));
        else out.push_back(static_cast<double>(e2m1_to_float(mxfp4_nibble(of_row, static_cast<int>(k)))) * e8m0_to_float(scales[row * scale_row + k / 32]));
      }
    }
    return out;
  }

 private:
  const uint64_t seed_;
  const SyntheticShape shape_;
  const SyntheticShard shard_;
};

// Loads a checkpoint as the engine does, and reads it back.
void checkpoint(const ModelSpec& spec) {
  const TargetShape target = stack_target(spec.target);
  std::optional<DraftShape> draft;
  if (spec.has_draft) draft = stack_draft(spec.draft);
  const auto source = checkpoint_source(spec);
  Model model(0, 0);
  model.load(target, draft ? &*draft : nullptr, *source);
  FromReader expected(spec);
  read_back(model, mixtures(target), std::ref(expected));
}

void slices() {
  for (const bool fp8 : {true, false}) {
    SyntheticShape shape;
    shape.layers = 3, shape.hidden = 512, shape.q_heads = 8, shape.kv_heads = 4, shape.experts = 6, shape.experts_per_token = 2, shape.expert_width = 512;
    shape.dense_width = 1024, shape.vocab = 256, shape.draft_width = 512, shape.fp8_experts = fp8;
    for (const SyntheticShard shard : {SyntheticShard{0, 1}, SyntheticShard{1, 2}, SyntheticShard{2, 4}}) {
      const TargetShape target = synthetic_target(shape, shard, 64);
      const DraftShape draft = synthetic_draft(shape, shard);
      const auto source = synthetic_source(5, shape, shard);
      Model model(0, 0);
      model.load(target, &draft, *source);
      read_back(model, mixtures(target), FromFormula(5, shape, shard));
    }
  }
}

// --- every small shape: a checkpoint of one mixture layer, all of whose tensors lie in one file of random bytes

// The file: codes without a NaN; binary32 scales; nibbles; E8M0 scales; BF16 values. Tensors begin at places that differ from one to the next.
class RandomFile {
 public:
  static constexpr size_t kRegion = size_t{1} << 21;

  explicit RandomFile(std::string path) : path_(std::move(path)) {
    std::mt19937 random(3);
    std::vector<uint8_t> bytes;
    const auto region = [&](auto make) {
      const size_t end = bytes.size() + 2 * kRegion;
      while (bytes.size() < end) make();
    };
    const auto put = [&](const auto& value) {
      uint8_t raw[sizeof value];
      std::memcpy(raw, &value, sizeof value);
      bytes.insert(bytes.end(), raw, raw + sizeof value);
    };
    region([&] { put(static_cast<uint8_t>((random() & 0x80u) | random() % 0x7fu)); });
    region([&] { put(0x1p-9f + static_cast<float>(random() % 100000) * 0x1p-20f); });
    region([&] { put(static_cast<uint8_t>(random())); });
    region([&] { put(static_cast<uint8_t>(110 + random() % 20)); });
    region([&] { put(static_cast<uint16_t>((random() & 0x8000u) | (0x3c00u + random() % 0x300u))); });
    std::ofstream file(path_, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!file) throw std::runtime_error(path_ + " cannot be written");
  }

  enum Region { kCodes, kScales, kNibbles, kExponents, kWide };
  TensorRecord tensor(Region region, const char* dtype, size_t element, std::vector<uint64_t> shape) {
    uint64_t bytes = element;
    for (const uint64_t size : shape) bytes *= size;
    if (bytes > kRegion) throw std::runtime_error("a tensor beyond the file");
    next_ = (next_ + 4096 + 16) % kRegion;
    return {dtype, std::move(shape), path_, region * 2 * kRegion + next_, bytes};
  }

 private:
  const std::string path_;
  uint64_t next_ = 0;
};

uint64_t blocks_of(size_t n) { return (n + 127) / 128; }

void add_linear(ModelSpec& spec, RandomFile& file, const std::string& name, size_t rows, size_t cols, const std::string& format) {
  if (format == "fp8") {
    spec.tensors[name + ".weight"] = file.tensor(RandomFile::kCodes, "F8_E4M3", 1, {rows, cols});
    spec.tensors[name + ".weight_scale_inv"] = file.tensor(RandomFile::kScales, "F32", 4, {blocks_of(rows), blocks_of(cols)});
  } else if (format == "mxfp4") {
    spec.tensors[name + ".weight"] = file.tensor(RandomFile::kNibbles, "U8", 1, {rows, cols / 2});
    spec.tensors[name + ".weight_scale"] = file.tensor(RandomFile::kExponents, "U8", 1, {rows, cols / 32});
  } else {
    spec.tensors[name + ".weight"] = file.tensor(RandomFile::kWide, "BF16", 2, {rows, cols});
  }
}

ModelSpec small(RandomFile& file, size_t hidden, size_t width, size_t experts, size_t per_token, const std::string& format) {
  ModelSpec spec;
  TargetPlan& plan = spec.target;
  plan.hidden = hidden, plan.vocab = 64, plan.epsilon = 1e-5f, plan.value_scale = 1, plan.experts = experts, plan.experts_per_token = per_token;
  plan.max_context = 64;
  AttentionPlan attention;
  attention.q_heads = attention.kv_heads = attention.fused_groups = 1, attention.head_dim = attention.v_head_dim = 128, attention.rotary_dim = 64;
  attention.rope_theta = 1e4;
  plan.layers.push_back({attention, true, width});
  spec.head_tensor = "lm_head.weight";
  const auto wide = [&](const std::string& name, std::vector<uint64_t> shape) { spec.tensors[name] = file.tensor(RandomFile::kWide, "BF16", 2, std::move(shape)); };
  wide("model.embed_tokens.weight", {64, hidden});
  wide("lm_head.weight", {64, hidden});
  wide("model.norm.weight", {hidden});
  const std::string layer = "model.layers.0.";
  wide(layer + "input_layernorm.weight", {hidden});
  wide(layer + "post_attention_layernorm.weight", {hidden});
  wide(layer + "self_attn.qkv_proj.weight", {384, hidden});
  wide(layer + "self_attn.o_proj.weight", {hidden, 128});
  wide(layer + "mlp.gate.weight", {experts, hidden});
  wide(layer + "mlp.gate.e_score_correction_bias", {experts});
  for (size_t e = 0; e < experts; ++e) {
    const std::string expert = layer + "mlp.experts." + std::to_string(e);
    add_linear(spec, file, expert + ".gate_proj", width, hidden, format);
    add_linear(spec, file, expert + ".up_proj", width, hidden, format);
    add_linear(spec, file, expert + ".down_proj", hidden, width, format);
  }
  return spec;
}

// Why a checkpoint is refused, or empty.
std::string refusal(const ModelSpec& spec, bool compare_all) {
  try {
    const TargetShape target = stack_target(spec.target);
    const auto source = checkpoint_source(spec);
    Model model(0, 0);
    model.load(target, nullptr, *source);
    FromReader expected(spec);
    if (compare_all) read_back(model, mixtures(target), std::ref(expected));
    return "";
  } catch (const InputFault& fault) {
    return fault.what();
  } catch (const std::invalid_argument& fault) {
    return fault.what();
  }
}

// The rule once more: whole pages of 256 columns, whole units of 64, inputs that fit, and a number of units a block that divides what it must.
bool holds(int hidden, int width, int experts, int per_token, int blocks) {
  if (hidden % 256 != 0 || hidden > 6144 || width == 0 || width % 64 != 0 || experts < 1 || experts > 512 || per_token < 1 || per_token > 8 || per_token > experts)
    return false;
  for (int each = 1; each <= hidden / 64; ++each)
    if (each * blocks >= hidden / 64 * (width / 64) && hidden / 64 % each == 0 && (each < 4 || each % 3 == 0)) return true;
  return false;
}

void shapes(const char* path) {
  RandomFile file(path);
  size_t held = 0, refused = 0;
  const auto one = [&](int hidden, int width, int experts, int per_token, int blocks, const char* format) {
    host_multiprocessors = blocks;
    const int before = findings;
    const std::string why = refusal(small(file, static_cast<size_t>(hidden), static_cast<size_t>(width), static_cast<size_t>(experts),
                                          static_cast<size_t>(per_token), format), blocks == 132);
    const bool expected = holds(hidden, width, experts, per_token, blocks);
    ++(expected ? held : refused);
    if (expected != why.empty() || (!expected && (why.substr(0, 11) != "the stack: " || why.find('\n') != std::string::npos)))
      report("held: %d, but: %s\n", expected, why.c_str());
    if (findings != before)
      report("^ hidden %d, width %d, %d experts, %d a token, %d blocks, %s\n", hidden, width, experts, per_token, blocks, format);
  };
  for (const char* format : {"fp8", "mxfp4"}) {
    for (int hidden = 64; hidden <= 1024; hidden += 64)
      for (int width = 32; width <= 384; width += 32)
        for (const int blocks : {8, 20, 132}) one(hidden, width, 2, 1, blocks, format);
    for (const int per_token : {0, 1, 3, 4, 8, 9}) one(256, 64, 3, per_token, 132, format);
    for (const int per_token : {8, 9}) one(256, 64, 12, per_token, 132, format);
  }
  // Beyond what the file holds: refused before a weight is read, or not refused for its shape.
  const auto unread = [&](int hidden, int width, int experts, int blocks) {
    ModelSpec spec;
    spec.target.hidden = static_cast<size_t>(hidden), spec.target.vocab = 64, spec.target.max_context = 64, spec.target.value_scale = 1;
    spec.target.experts = static_cast<size_t>(experts), spec.target.experts_per_token = 1;
    TargetShape target = stack_target(spec.target);
    target.layers.push_back({{1, 1, 128, 1e4, 0, false}, true, width});
    struct Nothing final : WeightSource {
      Matrix get(Tensor, int) override { throw std::logic_error("read"); }
      void release() override {}
    } nothing;
    host_multiprocessors = blocks;
    bool read = false;
    try {
      Model(0, 0).load(target, nullptr, nothing);
    } catch (const std::logic_error& error) {
      read = std::string(error.what()) == "read";
    }
    const bool expected = holds(hidden, width, experts, 1, blocks);
    ++(expected ? held : refused);
    if (read != expected) report("hidden %d, width %d, %d experts, %d blocks: held %d, expected %d\n", hidden, width, experts, blocks, read, expected);
  };
  for (int hidden = 256; hidden <= 8192; hidden += 256)
    for (int width = 64; width <= 16384; width += 64)
      for (const int blocks : {8, 78, 114, 132}) unread(hidden, width, 384, blocks);
  for (const int experts : {0, 1, 512, 513}) unread(6144, 2048, experts, 132);
  host_multiprocessors = 132;
  std::printf("%zu shapes held, %zu refused\n", held, refused);

  // Formats.
  const auto formats = [&](const char* name, const char* format, const char* expected) {
    ModelSpec spec = small(file, 256, 64, 3, 1, "fp8");
    if (format != nullptr) {
      spec.tensors.erase(std::string(name) + ".weight_scale_inv");
      add_linear(spec, file, name, std::string(name).ends_with("down_proj") ? 256 : 64, std::string(name).ends_with("down_proj") ? 64 : 256, format);
    } else {
      spec.tensors.erase(std::string(name) + ".weight");
    }
    const std::string why = refusal(spec, false);
    if (why != expected) report("%s as %s: %s\n", name, format == nullptr ? "nothing" : format, why.c_str());
  };
  const std::string base = "model.layers.0.mlp.experts.";
  for (const std::string& name : {base + "0.gate_proj", base + "1.up_proj", base + "2.down_proj"}) {
    formats(name.c_str(), "bf16", ("tensor " + name + ".weight is BF16, and the stack holds experts as MXFP4 or FP8 only").c_str());
    formats(name.c_str(), nullptr, ("tensor " + name + ".weight is missing").c_str());
  }
  const std::string apart = " and others of its layer U8; the stack holds a layer's experts in one format";
  formats((base + "0.gate_proj").c_str(), "mxfp4", ("tensor " + base + "0.up_proj.weight is F8_E4M3" + apart).c_str());
  formats((base + "2.down_proj").c_str(), "mxfp4",
          ("tensor " + base + "2.down_proj.weight is U8 and others of its layer F8_E4M3; the stack holds a layer's experts in one format").c_str());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  try {
    if (what == "checkpoint" && argc > 2) {
      checkpoint(read_spec(argv[2]));
    } else if (what == "slices") {
      slices();
    } else if (what == "shapes" && argc > 2) {
      shapes(argv[2]);
    } else {
      std::printf("usage: stack_load_probe checkpoint SPEC | slices | shapes FILE\n");
      return 2;
    }
  } catch (const std::exception& error) {
    report("%s\n", error.what());
  }
  std::printf("%zu elements compared, %d findings\n", compared, findings);
  return findings == 0 ? 0 : 1;
}
