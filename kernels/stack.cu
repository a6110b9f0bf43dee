#include "stack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <utility>

#include "device_memory.h"
#include "pack/pack.cuh"
#include "persistent/kernel.cuh"

namespace kilotoken::stack {

namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("the stack: " + what); }
void need(bool holds, const char* what) {
  if (!holds) refuse(what);
}

struct Linear {
  Device<uint8_t> pages;
  Tiling tiling{};
  Format format = Format::kE4m3;
  int k = 0;
};

struct DenseFfn {
  Linear up, down;  // up: gate and up rows by turns of eight
};

struct Mixture {
  Linear router;  // high parts, then low parts
  int router_tiles = 0, low_tiles = 0;
  Device<float> bias;
  Device<uint8_t> up, down;
  int page_k = 512, pages_per_tile = 0, tiles = 0, units = 0, passes = 1, units_per_pass = 1, experts_per_page = 1;
};

struct Layer {
  AttentionShape shape;
  Device<float> input_norm, post_norm, sinks;
  Device<float> q_norm, k_norm;  // the draft's
  Linear qkv, o;
  bool mixture = false;
  DenseFfn dense;
  Mixture experts;
  const float* turns = nullptr;
};

// Buffers that every sequence shares: one step is in progress at a time.
struct Workspace {
  Device<float> residual, squares, scales, parts, q, partial, logits, draft_logits, tile_best, expert_weights;
  Device<uint8_t> codes, h;
  Device<uint16_t> high, low, tap_high, tap_low;
  Device<int32_t> tile_best_id;
  Device<uint32_t> masks;
  Device<double> row, draft_row;
};

// The number of slices that leaves the slowest block the least to do, in pages; a slice more costs whoever sums the parts.
Tiling tile(int rows, int k, Format format, int blocks) {
  constexpr double kSlicePages = 0.4;
  Tiling best{(rows + kTileRows - 1) / kTileRows, 0, 0};
  const int pages = k / page_k(format), bytes = format == Format::kE4m3 ? kRows : kRows * 4;
  double best_cost = 1e30;
  for (int slices = 1; slices <= pages; ++slices) {
    if (pages % slices != 0) continue;
    const int most = (best.tiles * slices + blocks - 1) / blocks;
    const int window = std::min(slices, (most + best.tiles - 2) / best.tiles + 1);  // slices a block can touch
    if (window * (k / slices) * bytes > kInputBytes) continue;
    const double cost = most * (pages / slices) + kSlicePages * slices;
    if (cost < best_cost) {
      best_cost = cost;
      best.slices = slices;
      best.pages = pages / slices;
    }
  }
  if (best.slices == 0) refuse("a linear of " + std::to_string(k) + " inputs does not fit the input buffer");
  return best;
}

class StackImpl;

// Pointers into one sequence's caches, by layer.
struct Caches {
  std::vector<Device<uint16_t>> keys, values;  // target layers, then one for all draft layers
};

class SessionImpl final : public StackSession {
 public:
  SessionImpl(std::shared_ptr<StackImpl> stack, const Request& request);
  ~SessionImpl() override;
  std::vector<StackRound> run(int rounds, Mode mode) override;
  bool finished() const override { return finished_; }
  std::unique_ptr<StackSession> fork() const override;
  std::vector<float> logits(bool draft) const override;
  std::vector<TraceEntry> trace() override;

  // One pass of the verify part for rows start .. start + rows of the prompt, without deciding anything.
  void force(uint32_t start, uint32_t rows, const int32_t* ids);

 private:
  SessionImpl(std::shared_ptr<StackImpl> stack);
  void pass_by_instruction(bool draft);
  void pass_by_graph(bool draft);
  void check_fault(cudaError_t status);
  SessionState read_state() const;

  std::shared_ptr<StackImpl> stack_;
  Caches caches_;
  Device<int32_t> tokens_, proposals_;
  Device<SessionState> state_;
  Device<Instruction> list_;
  Device<uint32_t> done_;
  Program program_{};
  Mailbox* mailbox_ = nullptr;  // pinned
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t graphs_[2] = {};  // verify only; draft and verify
  std::vector<Op> ops_;             // of the list, for traces
  Device<long long> trace_;
  uint32_t rounds_read_ = 0;
  bool finished_ = false;
};

class StackImpl final : public Stack, public std::enable_shared_from_this<StackImpl> {
 public:
  StackImpl(int device, int blocks) : device_(device) {
    check(cudaSetDevice(device), "the GPU");
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, device), "the GPU");
    if (properties.major != 9) throw DeviceError(std::string("the GPU ") + properties.name + " is not of the Hopper generation (compute capability 9.0)");
    blocks_ = blocks > 0 ? blocks : properties.multiProcessorCount;
    need(blocks_ >= kRows && blocks_ <= properties.multiProcessorCount, "more blocks than multiprocessors, or fewer than 8");
    check(prepare_kernel(), "loading the kernel");
  }

  void load(const TargetShape& target, const DraftShape* draft, WeightSource& source);
  void load_toy(const ToyTables& toy);

  std::unique_ptr<StackSession> open(const Request& request) override {
    check(cudaSetDevice(device_), "the GPU");
    return std::make_unique<SessionImpl>(shared_from_this(), request);
  }
  std::vector<float> score(const std::vector<int32_t>& ids, int chunk) override;
  int blocks() const override { return blocks_; }
  size_t weight_bytes() const override { return weight_bytes_; }

  // The instruction list of a sequence with these caches.
  std::vector<Instruction> instructions(const Caches& caches, int& verify) const;
  Caches make_caches() const;

  int device_ = 0, blocks_ = 0;
  TargetShape target_;
  DraftShape draft_;
  bool has_draft_ = false, is_toy_ = false;
  int block_size_ = 1;
  Workspace work_;
  std::mutex busy_;
  int logits_instruction_ = 0;  // of the target, in the list

 private:
  Linear pack(const std::vector<RowSource>& rows, int k, Format format, const Matrix& a, const Matrix& b = {}, const Matrix& c = {});
  Linear plain(WeightSource& source, Tensor tensor, int layer, int rows, int k);
  Linear gate_up(const Matrix& gate, const Matrix& up, int width, int k);
  Device<float> vector(WeightSource& source, Tensor tensor, int layer, int count);
  const float* turns(double theta);
  void size_workspace();
  Layer load_target_layer(WeightSource& source, int index);
  Layer load_draft_layer(WeightSource& source, int index);
  void attention_instructions(const Layer& layer, const Norm& norm, uint16_t* keys, uint16_t* values, bool draft,
                              std::vector<Instruction>& list) const;
  Inputs inputs_for(Format format) const;

  Device<uint16_t> embedding_;
  Device<float> final_norm_;
  Linear head_;
  std::vector<Layer> layers_;
  Linear draft_fc_, draft_kv_;
  Device<float> draft_hidden_norm_, draft_final_norm_, draft_mask_, draft_k_norms_;
  std::vector<Layer> draft_layers_;
  std::vector<std::pair<double, Device<float>>> turns_;
  Device<float> toy_target_, toy_draft_;
  ToyTables toy_;
  size_t weight_bytes_ = 0;
  size_t parts_needed_ = 0;
  int widest_input_ = 0;
};

// --- packing

Linear StackImpl::pack(const std::vector<RowSource>& rows, int k, Format format, const Matrix& a, const Matrix& b, const Matrix& c) {
  Linear linear;
  linear.format = format;
  linear.k = k;
  need(k % page_k(format) == 0, format == Format::kE4m3 ? "E4M3 linears take multiples of 256 inputs" : "BF16 linears take multiples of 128 inputs");
  linear.tiling = tile(static_cast<int>(rows.size()), k, format, blocks_);
  std::vector<RowSource> padded = rows;
  padded.resize(static_cast<size_t>(linear.tiling.tiles) * kTileRows, RowSource{-1, 0, 0});
  const Device<RowSource> map(padded);
  const size_t units = static_cast<size_t>(linear.tiling.slices) * linear.tiling.tiles, pages = units * linear.tiling.pages;
  linear.pages = Device<uint8_t>(pages * page_bytes(format));
  weight_bytes_ += linear.pages.bytes();
  parts_needed_ = std::max(parts_needed_, units);
  widest_input_ = std::max(widest_input_, k);
  const Matrix from[3] = {a, b, c};
  check(pack_linear(linear.pages.get(), linear.tiling, format, from, map.get(), nullptr), "packing");
  check(cudaDeviceSynchronize(), "packing");
  return linear;
}

Format format_of(const Matrix& m) { return m.storage == Storage::kE4m3 ? Format::kE4m3 : Format::kBf16; }

std::vector<RowSource> rows_in_order(int count) {
  std::vector<RowSource> rows(count);
  for (int i = 0; i < count; ++i) rows[i] = {0, 0, i};
  return rows;
}

Linear StackImpl::plain(WeightSource& source, Tensor tensor, int layer, int rows, int k) {
  const Matrix m = source.get(tensor, layer);
  need(m.storage != Storage::kMxfp4 && m.rows == rows && m.cols == k, "a linear of another shape or format than it can hold");
  Linear linear = pack(rows_in_order(rows), k, format_of(m), m);
  source.release();
  return linear;
}

Linear StackImpl::gate_up(const Matrix& gate, const Matrix& up, int width, int k) {
  need(gate.storage == up.storage && gate.storage != Storage::kMxfp4, "gate and up of different formats");
  need(width % kQuantGroup == 0, "a dense feed-forward width that is no multiple of 128");
  std::vector<RowSource> rows;
  for (int i = 0; i < width; i += 8) {
    for (int j = 0; j < 8; ++j) rows.push_back({0, 0, i + j});
    for (int j = 0; j < 8; ++j) rows.push_back({1, 0, i + j});
  }
  return pack(rows, k, format_of(gate), gate, up);
}

Device<float> StackImpl::vector(WeightSource& source, Tensor tensor, int layer, int count) {
  const Matrix m = source.get(tensor, layer);
  need(m.rows * m.cols == count, "a vector of another length than it can hold");
  Device<float> out(count);
  check(to_float(out.get(), m, count, nullptr), "reading a vector");
  check(cudaDeviceSynchronize(), "reading a vector");
  source.release();
  return out;
}

// cos and sin of every position, as the reference has them: angles in binary64, rounded once.
const float* StackImpl::turns(double theta) {
  for (const auto& [known, table] : turns_)
    if (known == theta) return table.get();
  std::vector<float> table(static_cast<size_t>(target_.max_context + kRows) * kRotary);
  for (int i = 0; i < kRotary / 2; ++i) {
    const double frequency = std::pow(theta, -2.0 * i / kRotary);
    for (int p = 0; p < target_.max_context + kRows; ++p) {
      table[(static_cast<size_t>(p) * (kRotary / 2) + i) * 2] = static_cast<float>(std::cos(p * frequency));
      table[(static_cast<size_t>(p) * (kRotary / 2) + i) * 2 + 1] = static_cast<float>(std::sin(p * frequency));
    }
  }
  turns_.emplace_back(theta, Device<float>(table));
  return turns_.back().second.get();
}

void check_attention(const AttentionShape& a) {
  need(a.head_dim == 192 || a.head_dim == 128, "heads of 192 or 128 dimensions only");
  need(a.q_heads > 0 && a.kv_heads > 0 && a.q_heads % a.kv_heads == 0, "query heads that do not divide among key/value heads");
}

Layer StackImpl::load_target_layer(WeightSource& source, int index) {
  const LayerShape& shape = target_.layers[index];
  const AttentionShape& a = shape.attention;
  check_attention(a);
  Layer layer;
  layer.shape = a;
  layer.turns = turns(a.rope_theta);
  layer.input_norm = vector(source, Tensor::kInputNorm, index, target_.hidden);
  layer.post_norm = vector(source, Tensor::kPostNorm, index, target_.hidden);
  if (a.sink) layer.sinks = vector(source, Tensor::kSinks, index, a.q_heads);

  // Fused rows are stored in groups [Q | K | V], one a key/value head; here all q heads come first, then k, then v.
  const Matrix fused = source.get(Tensor::kQkv, index);
  const int per_group = a.q_heads / a.kv_heads * a.head_dim, group = per_group + a.head_dim + kValueDim;
  need(fused.rows == group * a.kv_heads && fused.cols == target_.hidden, "a fused projection of another shape than it can hold");
  std::vector<RowSource> rows;
  const auto part = [&](int offset, int count) {
    for (int g = 0; g < a.kv_heads; ++g)
      for (int i = 0; i < count; ++i) rows.push_back({0, 0, g * group + offset + i});
  };
  part(0, per_group);
  part(per_group, a.head_dim);
  part(per_group + a.head_dim, kValueDim);
  layer.qkv = pack(rows, target_.hidden, format_of(fused), fused);
  source.release();
  layer.o = plain(source, Tensor::kO, index, target_.hidden, a.q_heads * kValueDim);

  layer.mixture = shape.mixture;
  if (!shape.mixture) {
    const Matrix gate = source.get(Tensor::kGate, index), up = source.get(Tensor::kUp, index);
    layer.dense.up = gate_up(gate, up, shape.ffn_width, target_.hidden);
    source.release();
    layer.dense.down = plain(source, Tensor::kDown, index, target_.hidden, shape.ffn_width);
    return layer;
  }
  Mixture& m = layer.experts;
  const Matrix router = source.get(Tensor::kRouter, index);
  need(router.rows == target_.experts && router.cols == target_.hidden, "a router of another shape than it can hold");
  need(target_.experts <= kMaxExperts && target_.experts_per_token <= kMaxExpertsPerToken, "more than 512 experts, or more than 8 a token");
  m.router_tiles = (target_.experts + kTileRows - 1) / kTileRows;
  m.low_tiles = router.storage == Storage::kF32 ? m.router_tiles : 0;
  std::vector<RowSource> router_rows = rows_in_order(target_.experts);
  router_rows.resize(static_cast<size_t>(m.router_tiles) * kTileRows, RowSource{-1, 0, 0});
  if (m.low_tiles > 0)
    for (int i = 0; i < target_.experts; ++i) router_rows.push_back({0, 1, i});
  m.router = pack(router_rows, target_.hidden, Format::kBf16, router);
  source.release();
  m.bias = vector(source, Tensor::kCorrectionBias, index, target_.experts);

  const int width = shape.ffn_width;
  const Matrix gate = source.get(Tensor::kGate, index), up = source.get(Tensor::kUp, index);
  if (gate.storage != Storage::kMxfp4 || up.storage != Storage::kMxfp4) refuse("experts must be stored as MXFP4");
  need(gate.rows == target_.experts * width && gate.cols == target_.hidden, "experts of another shape than it can hold");
  need(width % kDownK == 0 && target_.hidden % 256 == 0, "an expert width that is no multiple of 64, or a hidden size that is none of 256");
  m.page_k = target_.hidden % 512 == 0 ? 512 : 256;
  m.pages_per_tile = target_.hidden / m.page_k;
  m.tiles = width / kUpperHalf;
  Device<uint32_t> refused(1);
  m.up = Device<uint8_t>(static_cast<size_t>(target_.experts) * m.tiles * m.pages_per_tile * up_page_bytes(m.page_k));
  check(pack_up(m.up.get(), gate, up, target_.experts, m.page_k, refused.get(), nullptr), "packing experts");
  check(cudaDeviceSynchronize(), "packing experts");
  source.release();
  const Matrix down = source.get(Tensor::kDown, index);
  if (down.storage != Storage::kMxfp4) refuse("experts must be stored as MXFP4");
  need(down.rows == target_.experts * target_.hidden && down.cols == width, "experts of another shape than it can hold");
  const int hidden_tiles = target_.hidden / kTileRows;
  m.units = hidden_tiles * (width / kDownK);
  m.down = Device<uint8_t>(static_cast<size_t>(target_.experts) * m.units * kDownUnitBytes);
  check(pack_down(m.down.get(), down, target_.experts, refused.get(), nullptr), "packing experts");
  check(cudaDeviceSynchronize(), "packing experts");
  source.release();
  uint32_t bad = 0;
  check(cudaMemcpy(&bad, refused.get(), 4, cudaMemcpyDeviceToHost), "packing experts");
  if (bad != 0) refuse("an expert scale of 2^-127 or NaN");
  weight_bytes_ += m.up.bytes() + m.down.bytes();
  parts_needed_ = std::max(parts_needed_, static_cast<size_t>(m.units));
  // Units of a block: enough that all blocks together have all, in one slice of k, three accumulators at a time at most.
  int each = (m.units + blocks_ - 1) / blocks_;
  while (hidden_tiles % each != 0 || (each > kMaxDownUnits && each % kMaxDownUnits != 0)) ++each;
  m.units_per_pass = std::min(each, kMaxDownUnits);
  m.passes = each / m.units_per_pass;
  m.experts_per_page = kPageBytes / (m.units_per_pass * kDownUnitBytes);
  return layer;
}

Layer StackImpl::load_draft_layer(WeightSource& source, int index) {
  const AttentionShape& a = draft_.attention;
  check_attention(a);
  Layer layer;
  layer.shape = a;
  layer.turns = turns(a.rope_theta);
  layer.input_norm = vector(source, Tensor::kDraftInputNorm, index, target_.hidden);
  layer.post_norm = vector(source, Tensor::kDraftPostNorm, index, target_.hidden);
  if (a.sink) layer.sinks = vector(source, Tensor::kDraftSinks, index, a.q_heads);
  layer.q_norm = vector(source, Tensor::kDraftQNorm, index, a.head_dim);
  layer.k_norm = vector(source, Tensor::kDraftKNorm, index, a.head_dim);
  const Matrix q = source.get(Tensor::kDraftQ, index), k = source.get(Tensor::kDraftK, index), v = source.get(Tensor::kDraftV, index);
  std::vector<RowSource> rows;
  for (int i = 0; i < a.q_heads * a.head_dim; ++i) rows.push_back({0, 0, i});
  for (int i = 0; i < a.kv_heads * a.head_dim; ++i) rows.push_back({1, 0, i});
  for (int i = 0; i < a.kv_heads * kValueDim; ++i) rows.push_back({2, 0, i});
  need(q.storage == Storage::kBf16 && k.storage == Storage::kBf16 && v.storage == Storage::kBf16, "a draft that is not BF16");
  layer.qkv = pack(rows, target_.hidden, Format::kBf16, q, k, v);
  source.release();
  layer.o = plain(source, Tensor::kDraftO, index, target_.hidden, a.q_heads * kValueDim);
  const Matrix gate = source.get(Tensor::kDraftGate, index), up = source.get(Tensor::kDraftUp, index);
  layer.dense.up = gate_up(gate, up, draft_.ffn_width, target_.hidden);
  source.release();
  layer.dense.down = plain(source, Tensor::kDraftDown, index, target_.hidden, draft_.ffn_width);
  return layer;
}

void StackImpl::load(const TargetShape& target, const DraftShape* draft, WeightSource& source) {
  target_ = target;
  need(target_.hidden % 256 == 0 && target_.max_context > 1 && target_.vocab > 0, "a hidden size that is no multiple of 256");
  need(target_.hidden <= kMaxHidden, "a hidden size beyond 8192");
  need(target_.layers.size() <= kMaxLayers, "more than 128 layers");
  if (draft != nullptr) {
    draft_ = *draft;
    has_draft_ = true;
    block_size_ = draft_.block_size;
    need(block_size_ >= 2 && block_size_ <= kRows, "a draft block outside 2 .. 8");
  }
  {
    const Matrix m = source.get(Tensor::kEmbedding, 0);
    need(m.storage == Storage::kBf16 && m.rows == target_.vocab && m.cols == target_.hidden, "an embedding that is not BF16 [vocab][hidden]");
    embedding_ = Device<uint16_t>(static_cast<size_t>(m.rows) * m.cols);
    check(cudaMemcpy(embedding_.get(), m.codes, embedding_.bytes(), cudaMemcpyDeviceToDevice), "the embedding");
    source.release();
  }
  head_ = plain(source, Tensor::kHead, 0, target_.vocab, target_.hidden);
  final_norm_ = vector(source, Tensor::kFinalNorm, 0, target_.hidden);
  for (size_t l = 0; l < target_.layers.size(); ++l) layers_.push_back(load_target_layer(source, static_cast<int>(l)));
  if (has_draft_) {
    for (const int tap : draft_.taps) need(tap >= 0 && tap < static_cast<int>(layers_.size()), "a draft that reads a layer the target lacks");
    draft_fc_ = plain(source, Tensor::kDraftFc, 0, target_.hidden, target_.hidden * static_cast<int>(draft_.taps.size()));
    draft_hidden_norm_ = vector(source, Tensor::kDraftHiddenNorm, 0, target_.hidden);
    draft_final_norm_ = vector(source, Tensor::kDraftFinalNorm, 0, target_.hidden);
    draft_mask_ = vector(source, Tensor::kDraftMask, 0, target_.hidden);
    for (int l = 0; l < draft_.layers; ++l) draft_layers_.push_back(load_draft_layer(source, l));
    // Keys and values of context features, for all draft layers in one linear.
    const AttentionShape& a = draft_.attention;
    std::vector<float> norms;
    for (int l = 0; l < draft_.layers; ++l) {
      std::vector<float> one(a.head_dim);
      check(cudaMemcpy(one.data(), draft_layers_[l].k_norm.get(), one.size() * 4, cudaMemcpyDeviceToHost), "the draft");
      norms.insert(norms.end(), one.begin(), one.end());
    }
    draft_k_norms_ = Device<float>(norms);
    const int k_rows = a.kv_heads * a.head_dim, v_rows = a.kv_heads * kValueDim;
    Device<uint16_t> together(static_cast<size_t>(draft_.layers) * (k_rows + v_rows) * target_.hidden);
    uint16_t* at = together.get();
    for (int l = 0; l < draft_.layers; ++l) {
      for (const Tensor tensor : {Tensor::kDraftK, Tensor::kDraftV}) {
        const Matrix m = source.get(tensor, l);
        const size_t count = static_cast<size_t>(m.rows) * m.cols;
        check(cudaMemcpy(at, m.codes, count * 2, cudaMemcpyDeviceToDevice), "the draft");
        at += count;
        source.release();
      }
    }
    const int rows = draft_.layers * (k_rows + v_rows);
    draft_kv_ = pack(rows_in_order(rows), target_.hidden, Format::kBf16, Matrix{Storage::kBf16, together.get(), nullptr, rows, target_.hidden, 0});
  }
  size_workspace();
}

void StackImpl::load_toy(const ToyTables& toy) {
  toy_ = toy;
  is_toy_ = true;
  need(toy.vocab > 0 && toy.order >= 1 && toy.max_context > 1 && toy.block >= 1 && toy.block <= kRows, "a toy without tokens, or a block outside 1 .. 8");
  size_t contexts = 1;
  for (int i = 0; i < toy.order; ++i) contexts *= toy.vocab;
  need(toy.target.size() == contexts * toy.vocab && toy.draft.size() == contexts * (toy.block - 1) * toy.vocab, "toy tables of other sizes than named");
  has_draft_ = toy.block > 1;
  block_size_ = toy.block;
  target_.vocab = toy.vocab;
  target_.max_context = toy.max_context;
  toy_target_ = Device<float>(toy.target);
  toy_draft_ = Device<float>(toy.draft);
  size_workspace();
}

void StackImpl::size_workspace() {
  const int hidden = target_.hidden, vocab = target_.vocab, tiles = is_toy_ ? 1 : head_.tiling.tiles;
  int q_values = 0, h_slices = 0;
  size_t partial = 0;
  const int chunks = (target_.max_context + kRows) / kChunkKeys + 1;
  const auto attention = [&](const AttentionShape& a) {
    q_values = std::max(q_values, a.q_heads * a.head_dim);
    if (a.window == 0) partial = std::max(partial, static_cast<size_t>(chunks) * a.q_heads * kRows * kPartialFloats);
  };
  for (const LayerShape& l : target_.layers) {
    attention(l.attention);
    if (l.mixture) h_slices = std::max(h_slices, l.ffn_width / kDownK);
  }
  if (has_draft_ && !is_toy_) attention(draft_.attention);
  Workspace& w = work_;
  w.residual = Device<float>(static_cast<size_t>(kRows) * hidden);
  w.squares = Device<float>(static_cast<size_t>(kRows) * (hidden / kQuantGroup));
  w.codes = Device<uint8_t>(static_cast<size_t>(kRows) * widest_input_);
  w.scales = Device<float>(static_cast<size_t>(kRows) * (widest_input_ / kQuantGroup + 1));
  w.high = Device<uint16_t>(static_cast<size_t>(kRows) * widest_input_);
  w.low = Device<uint16_t>(static_cast<size_t>(kRows) * widest_input_);
  w.parts = Device<float>(parts_needed_ * kPartFloats);
  w.q = Device<float>(static_cast<size_t>(kRows) * q_values);
  w.partial = Device<float>(partial);
  w.h = Device<uint8_t>(static_cast<size_t>(h_slices) * kMaxStepExperts * kDownInputBytes);
  w.masks = Device<uint32_t>(kRows * kMaxExperts / 32);
  w.expert_weights = Device<float>(static_cast<size_t>(kRows) * std::max(target_.experts, 1));
  w.logits = Device<float>(static_cast<size_t>(kRows) * vocab);
  w.draft_logits = Device<float>(static_cast<size_t>(kRows) * vocab);
  w.tile_best = Device<float>(static_cast<size_t>(kRows) * tiles);
  w.tile_best_id = Device<int32_t>(static_cast<size_t>(kRows) * tiles);
  w.row = Device<double>(static_cast<size_t>(kRows) * vocab);
  w.draft_row = Device<double>(static_cast<size_t>(kRows) * vocab);
  if (has_draft_ && !is_toy_) {
    w.tap_high = Device<uint16_t>(static_cast<size_t>(kRows) * hidden * draft_.taps.size());
    w.tap_low = Device<uint16_t>(static_cast<size_t>(kRows) * hidden * draft_.taps.size());
  }
}

Caches StackImpl::make_caches() const {
  Caches caches;
  const auto add = [&](const AttentionShape& a, int sets) {
    const size_t places = static_cast<size_t>(sets) * a.kv_heads * (target_.max_context + kRows);
    caches.keys.emplace_back(places * a.head_dim);
    caches.values.emplace_back(places * kValueDim);
  };
  for (const LayerShape& l : target_.layers) add(l.attention, 1);
  if (has_draft_ && !is_toy_) add(draft_.attention, draft_.layers);
  return caches;
}

// --- the instruction list

Inputs StackImpl::inputs_for(Format format) const {
  return format == Format::kE4m3 ? Inputs{work_.codes.get(), work_.scales.get(), nullptr, nullptr}
                                 : Inputs{nullptr, nullptr, work_.high.get(), work_.low.get()};
}

namespace {
Instruction blank(Op op, uint32_t layer) {
  Instruction ins;
  std::memset(&ins, 0, sizeof ins);
  ins.op = op;
  ins.layer = layer;
  return ins;
}
}  // namespace

void StackImpl::attention_instructions(const Layer& layer, const Norm& norm, uint16_t* keys, uint16_t* values, bool draft,
                                       std::vector<Instruction>& list) const {
  const AttentionShape& a = layer.shape;
  const uint32_t index = list.empty() ? 0 : list.back().layer;
  const int places = target_.max_context + kRows;
  Instruction ins = blank(Op::kLinear, index);
  ins.linear = {layer.qkv.pages.get(), layer.qkv.tiling, layer.qkv.format,
                layer.qkv.format == Format::kE4m3 ? static_cast<const void*>(work_.codes.get()) : work_.high.get(),
                layer.qkv.format == Format::kE4m3 ? static_cast<const void*>(work_.scales.get()) : work_.low.get(), work_.parts.get()};
  list.push_back(ins);

  ins = blank(Op::kQkv, index);
  QkvArgs& q = ins.qkv;
  q.parts = {work_.parts.get(), layer.qkv.tiling};
  q.norm = norm;
  q.q = work_.q.get();
  q.keys = keys;
  q.values = values;
  q.q_norm = layer.q_norm.get();
  q.k_norm = layer.k_norm.get();
  q.turns = layer.turns;
  q.value_scale = draft ? draft_.value_scale : target_.value_scale;
  q.head_epsilon = draft ? draft_.epsilon : target_.epsilon;
  q.q_heads = a.q_heads;
  q.kv_heads = a.kv_heads;
  q.head_dim = a.head_dim;
  q.sets = 1;
  q.max_context = places;
  list.push_back(ins);

  ins = blank(Op::kAttend, index);
  AttendArgs& t = ins.attend;
  t.q = work_.q.get();
  t.keys = keys;
  t.values = values;
  t.sinks = layer.sinks.get();
  t.out = inputs_for(layer.o.format);
  t.q_heads = a.q_heads;
  t.kv_heads = a.kv_heads;
  t.head_dim = a.head_dim;
  t.max_context = places;
  t.window = a.window;
  t.both_ways = draft;
  if (a.window == 0 && !draft) {
    t.partial = work_.partial.get();
    list.push_back(ins);
    ins.op = Op::kCombine;
  }
  list.push_back(ins);

  ins = blank(Op::kLinear, index);
  const Inputs in = inputs_for(layer.o.format);
  ins.linear = {layer.o.pages.get(), layer.o.tiling, layer.o.format,
                in.codes != nullptr ? static_cast<const void*>(in.codes) : in.high,
                in.scales != nullptr ? static_cast<const void*>(in.scales) : in.low, work_.parts.get()};
  list.push_back(ins);
}

std::vector<Instruction> StackImpl::instructions(const Caches& caches, int& verify) const {
  std::vector<Instruction> list;
  const Workspace& w = work_;
  const auto pick = [&](Op op) {
    Instruction ins = blank(op, 0);
    ins.pick = {op == Op::kPickDraft ? w.draft_logits.get() : w.logits.get(), w.tile_best.get(), w.tile_best_id.get(),
                w.row.get(), w.draft_row.get(), target_.vocab, is_toy_ ? 1 : head_.tiling.tiles};
    return ins;
  };
  if (is_toy_) {
    const auto table = [&](bool draft) {
      Instruction ins = blank(Op::kToy, 0);
      ins.toy = {draft ? toy_draft_.get() : toy_target_.get(), draft ? w.draft_logits.get() : w.logits.get(), w.tile_best.get(),
                 w.tile_best_id.get(), toy_.vocab, toy_.order, draft ? toy_.block - 1 : 1, 1, draft};
      return ins;
    };
    if (has_draft_) {
      list.push_back(table(true));
      list.push_back(pick(Op::kPickDraft));
    }
    verify = static_cast<int>(list.size());
    list.push_back(table(false));
    list.push_back(pick(Op::kPick));
    list.push_back(blank(Op::kAccept, 0));
    return list;
  }

  const int hidden = target_.hidden, groups = hidden / kQuantGroup;
  const auto norm_of = [&](float epsilon) { return Norm{w.squares.get(), groups, static_cast<float>(hidden), epsilon}; };
  const auto embed = [&](const Layer& first, bool draft) {
    Instruction ins = blank(Op::kEmbed, 0);
    ins.embed = {embedding_.get(), draft ? draft_mask_.get() : nullptr, draft ? draft_.mask_id : -1, first.input_norm.get(),
                 w.residual.get(), w.squares.get(), inputs_for(first.qkv.format), hidden};
    return ins;
  };
  const auto linear = [&](const Linear& l, uint32_t layer) {
    Instruction ins = blank(Op::kLinear, layer);
    const Inputs in = inputs_for(l.format);
    ins.linear = {l.pages.get(), l.tiling, l.format, in.codes != nullptr ? static_cast<const void*>(in.codes) : in.high,
                  in.scales != nullptr ? static_cast<const void*>(in.scales) : in.low, w.parts.get()};
    return ins;
  };
  // Adds the parts of a branch to the residual and makes the inputs of what follows.
  const auto reduce = [&](const Tiling& tiling, const float* weight, Inputs out, uint32_t layer) {
    Instruction ins = blank(Op::kReduce, layer);
    ins.reduce.parts = {w.parts.get(), tiling};
    ins.reduce.residual = w.residual.get();
    ins.reduce.norm_weight = weight;
    ins.reduce.squares = w.squares.get();
    ins.reduce.out = out;
    ins.reduce.hidden = hidden;
    return ins;
  };
  const auto dense = [&](const DenseFfn& ffn, int width, const Norm& norm, uint32_t layer) {
    list.push_back(linear(ffn.up, layer));
    Instruction ins = blank(Op::kSwiglu, layer);
    ins.swiglu = {{w.parts.get(), ffn.up.tiling}, norm, inputs_for(ffn.down.format), width};
    list.push_back(ins);
    list.push_back(linear(ffn.down, layer));
  };
  const auto head = [&](const Norm& norm, float* logits) {
    list.push_back(linear(head_, 0));
    Instruction ins = blank(Op::kLogits, 0);
    ins.logits = {{w.parts.get(), head_.tiling}, norm, logits, w.tile_best.get(), w.tile_best_id.get(), target_.vocab};
    list.push_back(ins);
  };

  if (has_draft_) {
    const Norm norm = norm_of(draft_.epsilon);
    list.push_back(embed(draft_layers_[0], true));
    const AttentionShape& a = draft_.attention;
    const size_t places = static_cast<size_t>(a.kv_heads) * (target_.max_context + kRows);
    for (int l = 0; l < draft_.layers; ++l) {
      const Layer& layer = draft_layers_[l];
      attention_instructions(layer, norm, caches.keys.back().get() + l * places * a.head_dim, caches.values.back().get() + l * places * kValueDim,
                             true, list);
      list.push_back(reduce(layer.o.tiling, layer.post_norm.get(), inputs_for(layer.dense.up.format), l));
      dense(layer.dense, draft_.ffn_width, norm, l);
      const bool last = l + 1 == draft_.layers;
      list.push_back(reduce(layer.dense.down.tiling, last ? draft_final_norm_.get() : draft_layers_[l + 1].input_norm.get(),
                            inputs_for(last ? head_.format : draft_layers_[l + 1].qkv.format), l));
    }
    head(norm, w.draft_logits.get());
    list.push_back(pick(Op::kPickDraft));
  }
  verify = static_cast<int>(list.size());

  const Norm norm = norm_of(target_.epsilon);
  list.push_back(embed(layers_[0], false));
  int mixtures = 0;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    const uint32_t index = static_cast<uint32_t>(l);
    list.back().layer = index;
    attention_instructions(layer, norm, caches.keys[l].get(), caches.values[l].get(), false, list);
    const bool last = l + 1 == layers_.size();
    const float* next_weight = last ? final_norm_.get() : layers_[l + 1].input_norm.get();
    const Inputs next_inputs = inputs_for(last ? head_.format : layers_[l + 1].qkv.format);
    Tiling branch{};
    if (layer.mixture) {
      const Mixture& m = layer.experts;
      list.push_back(reduce(layer.o.tiling, layer.post_norm.get(), {w.codes.get(), w.scales.get(), w.high.get(), w.low.get()}, index));
      list.push_back(linear(m.router, index));
      Instruction ins = blank(Op::kTopk, index);
      ins.topk = {{w.parts.get(), m.router.tiling}, norm, m.bias.get(), w.masks.get(), w.expert_weights.get(), target_.experts,
                  target_.experts_per_token, m.router_tiles, m.low_tiles, target_.normalise_expert_weights, target_.routed_scale};
      list.push_back(ins);
      ins = blank(Op::kExpertsUp, index);
      ins.up = {m.up.get(), w.masks.get(), w.expert_weights.get(), w.codes.get(), w.scales.get(), norm, w.h.get(), target_.experts, m.tiles,
                m.pages_per_tile, m.page_k, mixtures++};
      list.push_back(ins);
      ins = blank(Op::kExpertsDown, index);
      ins.down = {m.down.get(), w.masks.get(), w.h.get(), w.parts.get(), target_.experts, m.units, hidden / kTileRows, m.passes,
                  m.units_per_pass, m.experts_per_page};
      list.push_back(ins);
      branch = {hidden / kTileRows, m.units / (hidden / kTileRows), 1};
    } else {
      list.push_back(reduce(layer.o.tiling, layer.post_norm.get(), inputs_for(layer.dense.up.format), index));
      dense(layer.dense, target_.layers[l].ffn_width, norm, index);
      branch = layer.dense.down.tiling;
    }
    Instruction ins = reduce(branch, next_weight, next_inputs, index);
    if (has_draft_) {
      for (size_t t = 0; t < draft_.taps.size(); ++t)
        if (draft_.taps[t] == static_cast<int>(l))
          ins.reduce.tap = {nullptr, nullptr, w.tap_high.get() + t * hidden * kRows, w.tap_low.get() + t * hidden * kRows};
    }
    list.push_back(ins);
  }
  head(norm, w.logits.get());
  list.push_back(pick(Op::kPick));
  if (has_draft_) {
    // The draft's context: features of all rows; those behind a refused draft are overwritten by the next round.
    Instruction ins = blank(Op::kLinear, 0);
    ins.linear = {draft_fc_.pages.get(), draft_fc_.tiling, draft_fc_.format, w.tap_high.get(), w.tap_low.get(), w.parts.get()};
    list.push_back(ins);
    ins = reduce(draft_fc_.tiling, draft_hidden_norm_.get(), inputs_for(Format::kBf16), 0);
    ins.reduce.residual = nullptr;
    list.push_back(ins);
    list.push_back(linear(draft_kv_, 0));
    const AttentionShape& a = draft_.attention;
    const int places = target_.max_context + kRows;
    ins = blank(Op::kQkv, 0);
    QkvArgs& q = ins.qkv;
    q.parts = {w.parts.get(), draft_kv_.tiling};
    q.norm = norm_of(draft_.epsilon);
    q.keys = caches.keys.back().get();
    q.values = caches.values.back().get();
    q.k_norm = draft_k_norms_.get();
    q.turns = draft_layers_[0].turns;
    q.value_scale = draft_.value_scale;
    q.head_epsilon = draft_.epsilon;
    q.kv_heads = a.kv_heads;
    q.head_dim = a.head_dim;
    q.sets = draft_.layers;
    q.max_context = places;
    q.key_set_stride = static_cast<size_t>(a.kv_heads) * places * a.head_dim;
    q.value_set_stride = static_cast<size_t>(a.kv_heads) * places * kValueDim;
    list.push_back(ins);
  }
  list.push_back(blank(Op::kAccept, 0));
  return list;
}

std::vector<float> StackImpl::score(const std::vector<int32_t>& ids, int chunk) {
  need(chunk >= 1 && chunk <= kRows, "a chunk outside 1 .. 8");
  need(!ids.empty() && static_cast<int>(ids.size()) <= target_.max_context, "a sequence that does not fit the context");
  Request request;
  request.prompt = {ids[0]};
  const auto session = open(request);
  auto& s = static_cast<SessionImpl&>(*session);
  std::vector<float> all;
  const std::lock_guard lock(busy_);
  for (size_t begin = 0; begin < ids.size(); begin += chunk) {
    const size_t rows = std::min<size_t>(chunk, ids.size() - begin);
    s.force(static_cast<uint32_t>(begin), static_cast<uint32_t>(rows), ids.data() + begin);
    const std::vector<float> out = s.logits(false);
    all.insert(all.end(), out.begin(), out.begin() + static_cast<std::ptrdiff_t>(rows * target_.vocab));
  }
  return all;
}

// --- a sequence

SessionImpl::SessionImpl(std::shared_ptr<StackImpl> stack) : stack_(std::move(stack)) {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  check(cudaHostAlloc(reinterpret_cast<void**>(&mailbox_), sizeof(Mailbox), cudaHostAllocMapped), "pinned memory");
  std::memset(mailbox_, 0, sizeof(Mailbox));
  caches_ = stack_->make_caches();
  tokens_ = Device<int32_t>(static_cast<size_t>(stack_->target_.max_context) + kRows);
  state_ = Device<SessionState>(1);
  int verify = 0;
  const std::vector<Instruction> list = stack_->instructions(caches_, verify);
  list_ = Device<Instruction>(list);
  done_ = Device<uint32_t>(list.size() * kLineWords);
  program_ = {list_.get(), verify, static_cast<int>(list.size()), done_.get(), nullptr};
  for (const Instruction& ins : list) ops_.push_back(ins.op);
}

SessionImpl::SessionImpl(std::shared_ptr<StackImpl> stack, const Request& request) : SessionImpl(std::move(stack)) {
  need(!request.prompt.empty() && static_cast<int>(request.prompt.size()) < stack_->target_.max_context, "a prompt that does not fit the context");
  need(request.block_size >= 1 && request.block_size <= stack_->block_size_, "a block size beyond the draft's");
  need(request.stop_ids.size() <= kMaxStopIds, "more than 16 stop ids");
  for (const int32_t id : request.prompt) need(id >= 0 && id < stack_->target_.vocab, "a token id outside the vocabulary");
  SessionState s{};
  s.seed = request.seed;
  s.temperature = request.temperature;
  s.top_p = request.top_p;
  s.top_k = request.top_k;
  s.rule = static_cast<Rule>(request.rule);
  s.block_size = static_cast<uint32_t>(request.block_size);
  s.max_context = static_cast<uint32_t>(stack_->target_.max_context);
  s.max_tokens = request.max_tokens;
  s.prompt_length = static_cast<uint32_t>(request.prompt.size());
  std::copy(request.stop_ids.begin(), request.stop_ids.end(), s.stop_ids);
  s.stop_count = static_cast<uint32_t>(request.stop_ids.size());
  s.tokens = tokens_.get();
  need(request.proposals.empty() || request.rule != DecodeRule::kReject || request.temperature == 0, "assumed proposals under the rule reject");
  if (!request.proposals.empty()) {
    std::vector<int32_t> proposals = request.proposals;
    proposals.resize(static_cast<size_t>(stack_->target_.max_context) + kRows, 0);
    proposals_ = Device<int32_t>(proposals);
    s.proposals = proposals_.get();
  }
  s.phase = Phase::kPrefill;
  s.length = s.prompt_length;
  s.rows = std::min<uint32_t>(kRows, s.prompt_length);
  for (uint32_t i = 0; i < s.rows; ++i) s.step[i] = request.prompt[i];
  for (const LayerShape& l : stack_->target_.layers) s.mixture_layers += l.mixture;
  copy_in(tokens_.get(), request.prompt.data(), request.prompt.size() * 4, "the prompt");
  copy_in(state_.get(), &s, sizeof s, "the sequence");
}

SessionImpl::~SessionImpl() {
  for (const cudaGraphExec_t graph : graphs_)
    if (graph != nullptr) cudaGraphExecDestroy(graph);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
  if (mailbox_ != nullptr) cudaFreeHost(mailbox_);
}

std::unique_ptr<StackSession> SessionImpl::fork() const {
  auto copy = std::unique_ptr<SessionImpl>(new SessionImpl(stack_));
  for (size_t i = 0; i < caches_.keys.size(); ++i) {
    check(cudaMemcpy(copy->caches_.keys[i].get(), caches_.keys[i].get(), caches_.keys[i].bytes(), cudaMemcpyDeviceToDevice), "fork");
    check(cudaMemcpy(copy->caches_.values[i].get(), caches_.values[i].get(), caches_.values[i].bytes(), cudaMemcpyDeviceToDevice), "fork");
  }
  check(cudaMemcpy(copy->tokens_.get(), tokens_.get(), tokens_.bytes(), cudaMemcpyDeviceToDevice), "fork");
  SessionState s = read_state();
  s.tokens = copy->tokens_.get();
  if (proposals_.size() > 0) {
    copy->proposals_ = Device<int32_t>(proposals_.size());
    check(cudaMemcpy(copy->proposals_.get(), proposals_.get(), proposals_.bytes(), cudaMemcpyDeviceToDevice), "fork");
    s.proposals = copy->proposals_.get();
  }
  copy_in(copy->state_.get(), &s, sizeof s, "fork");
  copy->rounds_read_ = rounds_read_;
  copy->finished_ = finished_;
  return copy;
}

SessionState SessionImpl::read_state() const {
  SessionState s;
  check(cudaMemcpy(&s, state_.get(), sizeof s, cudaMemcpyDeviceToHost), "the sequence");
  return s;
}

void SessionImpl::check_fault(cudaError_t status) {
  const ptx::Fault& fault = mailbox_->fault;
  if (fault.code != 0) {
    static const char* const kWaits[] = {"", "a page of weights", "a free page", "the inputs of a step", "an accumulator", "a free accumulator",
                                         "the choice of experts", "the instruction before"};
    const std::string where = " (block " + std::to_string(fault.block) + ", instruction " + std::to_string(fault.detail) + ")";
    if (fault.code == 101) throw KernelFault("the model produced a logit that is not a number" + where, fault.code);
    if (fault.code == 100) throw KernelFault("the model produced a row without any token" + where, fault.code);
    throw KernelFault(std::string("the kernel waited too long for ") + kWaits[fault.code < 8 ? fault.code : 0] + where, fault.code);
  }
  check(status, "the kernel");
}

void SessionImpl::pass_by_instruction(bool draft) {
  for (int i = draft ? 0 : program_.verify; i < program_.count; ++i)
    check(launch_instruction(program_, i, state_.get(), mailbox_, stack_->blocks_, stream_), "a launch");
}

void SessionImpl::pass_by_graph(bool draft) {
  cudaGraphExec_t& graph = graphs_[draft];
  if (graph == nullptr) {
    cudaGraph_t recorded;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording");
    pass_by_instruction(draft);
    check(cudaStreamEndCapture(stream_, &recorded), "recording");
    check(cudaGraphInstantiate(&graph, recorded, 0), "recording");
    cudaGraphDestroy(recorded);
  }
  check(cudaGraphLaunch(graph, stream_), "a launch");
}

std::vector<StackRound> SessionImpl::run(int rounds, Mode mode) {
  std::vector<StackRound> out;
  if (finished_ || rounds <= 0) return out;
  const std::lock_guard lock(stack_->busy_);
  check(cudaSetDevice(stack_->device_), "the GPU");
  const uint32_t goal = rounds_read_ + static_cast<uint32_t>(rounds);
  const auto collect = [&] {
    while (rounds_read_ < goal) {
      const RoundRecord& r = mailbox_->rounds[rounds_read_ % kMailboxRounds];
      if (r.sequence != rounds_read_ + 1) return;
      StackRound round;
      round.prefill = rounds_read_ == 0;
      round.committed.assign(r.committed, r.committed + r.committed_count);
      round.drafted.assign(r.drafted, r.drafted + r.drafted_count);
      round.accepted = r.accepted;
      round.finish = static_cast<int>(r.finish);
      if (r.began_ns != 0) {
        round.draft_ns = r.drafted_ns - r.began_ns;
        round.verify_ns = r.ended_ns - r.drafted_ns;
      }
      uint32_t mixtures = 0;
      for (const LayerShape& l : stack_->target_.layers) mixtures += l.mixture;
      round.distinct_experts.assign(r.distinct_experts, r.distinct_experts + mixtures);
      finished_ = r.finish != 0;
      out.push_back(std::move(round));
      ++rounds_read_;
      if (finished_) return;
    }
  };
  while (!finished_ && rounds_read_ < goal) {
    if (mode == Mode::kResident) {
      const uint32_t some = std::min<uint32_t>(goal - rounds_read_, kMailboxRounds);
      check_fault(launch_resident(program_, state_.get(), mailbox_, some, stack_->blocks_, stream_));
    } else {
      const SessionState s = read_state();
      const bool draft = s.phase == Phase::kDecode && s.rows > 1;
      if (mode == Mode::kGraph) pass_by_graph(draft);
      else pass_by_instruction(draft);
    }
    check_fault(cudaStreamSynchronize(stream_));
    collect();
  }
  return out;
}

void SessionImpl::force(uint32_t start, uint32_t rows, const int32_t* ids) {
  SessionState s = read_state();
  s.phase = Phase::kPrefill;
  s.start = start;
  s.rows = rows;
  s.prompt_length = start + rows + 1;  // never the last part: accept only moves on
  s.length = start + rows;
  for (uint32_t i = 0; i < rows; ++i) s.step[i] = ids[i];
  copy_in(state_.get(), &s, sizeof s, "the sequence");
  pass_by_instruction(false);
  check_fault(cudaStreamSynchronize(stream_));
}

std::vector<TraceEntry> SessionImpl::trace() {
  static const char* const kNames[] = {"embed", "linear", "qkv", "attend", "combine", "reduce", "swiglu", "top-k", "experts up", "experts down",
                                       "logits", "pick draft", "pick", "accept", "toy"};
  std::vector<TraceEntry> out;
  if (trace_.size() == 0) {
    trace_ = Device<long long>(ops_.size() * stack_->blocks_ * 4);
    program_.trace = trace_.get();
    return out;
  }
  std::vector<long long> clocks(trace_.size());
  check(cudaMemcpy(clocks.data(), trace_.get(), trace_.bytes(), cudaMemcpyDeviceToHost), "the trace");
  for (size_t i = 0; i < ops_.size(); ++i) {
    TraceEntry entry{kNames[static_cast<int>(ops_[i])], clocks[i * stack_->blocks_ * 4], {}, {}, {}};
    for (int b = 0; b < stack_->blocks_; ++b) {
      const long long* c = clocks.data() + (i * stack_->blocks_ + b) * 4;
      entry.math.push_back(c[1] - c[0]);
      entry.done.push_back(std::max(c[1], c[2]) - c[0]);
      entry.began_ns.push_back(c[3]);
    }
    out.push_back(std::move(entry));
  }
  return out;
}

std::vector<float> SessionImpl::logits(bool draft) const {
  const Device<float>& from = draft ? stack_->work_.draft_logits : stack_->work_.logits;
  std::vector<float> out(from.size());
  check(cudaMemcpy(out.data(), from.get(), from.bytes(), cudaMemcpyDeviceToHost), "logits");
  return out;
}

}  // namespace

std::shared_ptr<Stack> Stack::make(int device, const TargetShape& target, const DraftShape* draft, WeightSource& weights, int blocks) {
  auto stack = std::make_shared<StackImpl>(device, blocks);
  stack->load(target, draft, weights);
  return stack;
}

std::shared_ptr<Stack> Stack::make_toy(int device, const ToyTables& toy, int blocks) {
  auto stack = std::make_shared<StackImpl>(device, blocks);
  stack->load_toy(toy);
  return stack;
}

}  // namespace kilotoken::stack
