#include "model.h"

#include <algorithm>
#include <cmath>

namespace kilotoken::stack {

// As few slices as let one slice's inputs fit the input buffer.
Tiling tile(int rows, int k, Format format, int blocks) {
  const int pages = k / page_k(format), bytes = format == Format::kE4m3 ? kRows : kRows * 4;
  for (int slices = 1; slices <= pages; ++slices) {
    if (pages % slices != 0 || k / slices * bytes > kInputBytes) continue;
    Tiling t{(rows + kTileRows - 1) / kTileRows, slices, pages / slices, 0, 1, {}, {}, {}, {}};
    t.blocks = std::min(blocks, all_pages(t));
    t.by_all = divisor(static_cast<uint32_t>(all_pages(t)));
    t.by_slice = divisor(static_cast<uint32_t>(t.tiles * t.pages));
    t.by_pages = divisor(static_cast<uint32_t>(t.pages));
    t.by_blocks = divisor(static_cast<uint32_t>(t.blocks));
    for (int unit = 0; unit < t.tiles * t.slices; ++unit) t.most = std::max(t.most, pieces_of(t, unit).count);
    return t;
  }
  refuse("a linear of " + std::to_string(k) + " inputs does not fit the input buffer");
}

Model::Model(int gpu, int grid, int rank, int ranks) : device(gpu) {
  comm.rank = rank;
  comm.ranks = ranks;
  check(cudaSetDevice(device), "the GPU");
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "the GPU");
  if (properties.major != 9) throw DeviceError(std::string("the GPU ") + properties.name + " is not of the Hopper generation (compute capability 9.0)");
  blocks = grid > 0 ? grid : properties.multiProcessorCount;
  need(blocks >= kRows && blocks <= properties.multiProcessorCount, "more blocks than multiprocessors, or fewer than 8");
  check(prepare_kernel(), "loading the kernel");
}

Linear Model::pack(const std::vector<RowSource>& rows, int k, Format format, const Matrix& a, const Matrix& b, const Matrix& c) {
  Linear linear;
  linear.format = format;
  linear.k = k;
  need(k % page_k(format) == 0, format == Format::kE4m3 ? "E4M3 linears take multiples of 256 inputs" : "BF16 linears take multiples of 128 inputs");
  linear.tiling = tile(static_cast<int>(rows.size()), k, format, blocks);
  std::vector<RowSource> padded = rows;
  padded.resize(static_cast<size_t>(linear.tiling.tiles) * kTileRows, RowSource{-1, 0, 0});
  const Device<RowSource> map(padded);
  const size_t pages = static_cast<size_t>(all_pages(linear.tiling));
  linear.pages = Device<uint8_t>(pages * page_bytes(format));
  weight_bytes += linear.pages.bytes();
  reserve_parts(linear.tiling);
  widest_input_ = std::max(widest_input_, k);
  const Matrix from[3] = {a, b, c};
  check(pack_linear(linear.pages.get(), linear.tiling, format, from, map.get(), nullptr), "packing");
  check(cudaDeviceSynchronize(), "packing");
  return linear;
}

Format format_of(const Matrix& m) { return m.storage == Storage::kE4m3 ? Format::kE4m3 : Format::kBf16; }

// Rows of matrices 0 and 1 by turns of eight.
std::vector<RowSource> rows_by_turns(int count) {
  std::vector<RowSource> rows;
  rows.reserve(static_cast<size_t>(count) * 2);
  for (int i = 0; i < count; i += 8) {
    for (int j = 0; j < 8; ++j) rows.push_back({0, 0, i + j});
    for (int j = 0; j < 8; ++j) rows.push_back({1, 0, i + j});
  }
  return rows;
}

std::vector<RowSource> rows_in_order(int count) {
  std::vector<RowSource> rows(count);
  for (int i = 0; i < count; ++i) rows[i] = {0, 0, i};
  return rows;
}

Linear Model::plain(WeightSource& source, Tensor tensor, int layer, int rows, int k) {
  const Matrix m = source.get(tensor, layer);
  need(m.storage != Storage::kMxfp4 && m.rows == rows && m.cols == k, "a linear of another shape or format than it can hold");
  Linear linear = pack(rows_in_order(rows), k, format_of(m), m);
  source.release();
  return linear;
}

Linear Model::gate_up(const Matrix& gate, const Matrix& up, int width, int k) {
  need(gate.storage == up.storage && gate.storage != Storage::kMxfp4, "gate and up of different formats");
  need(width % kQuantGroup == 0, "a dense feed-forward width that is no multiple of 128");
  return pack(rows_by_turns(width), k, format_of(gate), gate, up);
}

Device<float> Model::vector(WeightSource& source, Tensor tensor, int layer, int count) {
  const Matrix m = source.get(tensor, layer);
  need(m.rows * m.cols == count, "a vector of another length than it can hold");
  Device<float> out(count);
  check(to_float(out.get(), m, count, nullptr), "reading a vector");
  check(cudaDeviceSynchronize(), "reading a vector");
  source.release();
  return out;
}

// cos and sin of every position, as the reference has them: angles in binary64, rounded once.
const float* Model::turns(double theta) {
  for (const auto& [known, table] : turns_)
    if (known == theta) return table.get();
  std::vector<float> table(static_cast<size_t>(target.max_context + kRows) * kRotary);
  for (int i = 0; i < kRotary / 2; ++i) {
    const double frequency = std::pow(theta, -2.0 * i / kRotary);
    for (int p = 0; p < target.max_context + kRows; ++p) {
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

// Units of the down projection that a block makes: enough that all blocks together have all, in one slice of k, three accumulators at a time at most. 0: no
// number is all of that.
int down_units_of_block(int hidden, int width, int blocks) {
  const int tiles = hidden / kTileRows, units = tiles * (width / kDownK);
  for (int each = (units + blocks - 1) / blocks; each <= tiles; ++each)
    if (tiles % each == 0 && (each <= kMaxDownUnits || each % kMaxDownUnits == 0)) return each;
  return 0;
}

// What a mixture must be for its pages and buffers; asked before anything is read. The hidden size is a multiple of 256.
void check_mixture(const TargetShape& target, int width, int blocks) {
  need(target.experts > 0 && target.experts <= kMaxExperts, "a number of experts outside 1 .. 512");
  need(target.experts_per_token > 0 && target.experts_per_token <= kMaxExpertsPerToken && target.experts_per_token <= target.experts,
       "experts a token outside 1 .. 8, or more than there are");
  need(target.hidden * kRows <= kInputBytes, "experts behind a hidden size beyond 6144");
  need(width > 0 && width % kDownK == 0, "an expert width that is no multiple of 64");
  if (down_units_of_block(target.hidden, width, blocks) == 0)
    refuse("experts of " + std::to_string(target.hidden) + " x " + std::to_string(width) + ", whose down projection does not divide among " +
           std::to_string(blocks) + " blocks");
}

Layer Model::load_target_layer(WeightSource& source, int index) {
  const LayerShape& shape = target.layers[index];
  const AttentionShape& a = shape.attention;
  check_attention(a);
  Layer layer;
  layer.shape = a;
  layer.turns = turns(a.rope_theta);
  layer.input_norm = vector(source, Tensor::kInputNorm, index, target.hidden);
  layer.post_norm = vector(source, Tensor::kPostNorm, index, target.hidden);
  if (a.sink) layer.sinks = vector(source, Tensor::kSinks, index, a.q_heads);

  // Fused rows are stored in groups [Q | K | V], one a key/value head; here all q heads come first, then k, then v.
  const Matrix fused = source.get(Tensor::kQkv, index);
  const int per_group = a.q_heads / a.kv_heads * a.head_dim, group = per_group + a.head_dim + kValueDim;
  need(fused.rows == group * a.kv_heads && fused.cols == target.hidden, "a fused projection of another shape than it can hold");
  std::vector<RowSource> rows;
  const auto part = [&](int offset, int count) {
    for (int g = 0; g < a.kv_heads; ++g)
      for (int i = 0; i < count; ++i) rows.push_back({0, 0, g * group + offset + i});
  };
  part(0, per_group);
  part(per_group, a.head_dim);
  part(per_group + a.head_dim, kValueDim);
  layer.qkv = pack(rows, target.hidden, format_of(fused), fused);
  source.release();
  layer.o = plain(source, Tensor::kO, index, target.hidden, a.q_heads * kValueDim);

  layer.mixture = shape.mixture;
  if (!shape.mixture) {
    const Matrix gate = source.get(Tensor::kGate, index), up = source.get(Tensor::kUp, index);
    layer.dense.up = gate_up(gate, up, shape.ffn_width, target.hidden);
    source.release();
    layer.dense.down = plain(source, Tensor::kDown, index, target.hidden, shape.ffn_width);
    return layer;
  }
  Mixture& m = layer.experts;
  const Matrix router = source.get(Tensor::kRouter, index);
  need(router.rows == target.experts && router.cols == target.hidden, "a router of another shape than it can hold");
  m.router_tiles = (target.experts + kTileRows - 1) / kTileRows;
  m.low_tiles = router.storage == Storage::kF32 ? m.router_tiles : 0;
  std::vector<RowSource> router_rows = rows_in_order(target.experts);
  router_rows.resize(static_cast<size_t>(m.router_tiles) * kTileRows, RowSource{-1, 0, 0});
  if (m.low_tiles > 0)
    for (int i = 0; i < target.experts; ++i) router_rows.push_back({0, 1, i});
  m.router = pack(router_rows, target.hidden, Format::kBf16, router);
  source.release();
  m.bias = vector(source, Tensor::kCorrectionBias, index, target.experts);

  const int width = shape.ffn_width;
  const Matrix gate = source.get(Tensor::kGate, index), up = source.get(Tensor::kUp, index);
  m.storage = gate.storage;
  if (m.storage != Storage::kMxfp4 && m.storage != Storage::kE4m3) refuse("experts must be stored as MXFP4 or E4M3");
  need(up.storage == m.storage && gate.rows == target.experts * width && up.rows == gate.rows && gate.cols == target.hidden && up.cols == gate.cols,
       "experts of another shape than it can hold");
  need(m.storage != Storage::kE4m3 || (gate.scale_rows == width && up.scale_rows == width), "experts whose scales do not begin anew with each of them");
  m.page_k = m.storage == Storage::kMxfp4 && target.hidden % 512 == 0 ? 512 : 256;
  const int pages_per_tile = target.hidden / m.page_k;
  m.segments = segments_of(pages_per_tile);
  m.pages_per_segment = pages_per_tile / m.segments;
  m.tiles = width / kUpperHalf;
  Device<uint32_t> refused(1);
  m.up = Device<uint8_t>(static_cast<size_t>(target.experts) * m.tiles * pages_per_tile * up_page_bytes(m.storage, m.page_k));
  if (m.storage == Storage::kMxfp4) {
    check(pack_up(m.up.get(), gate, up, target.experts, m.page_k, refused.get(), nullptr), "packing experts");
    check(cudaDeviceSynchronize(), "packing experts");
  } else {
    const Device<RowSource> map(rows_by_turns(gate.rows));
    check(pack_linear(m.up.get(), {target.experts * m.tiles, 1, pages_per_tile, 0, 1, {}, {}, {}, {}}, Format::kE4m3, {gate, up, {}}, map.get(), nullptr),
          "packing experts");
    check(cudaDeviceSynchronize(), "packing experts");
  }
  source.release();
  const Matrix down = source.get(Tensor::kDown, index);
  need(down.storage == m.storage && down.rows == target.experts * target.hidden && down.cols == width, "experts of another shape than it can hold");
  need(m.storage != Storage::kE4m3 || down.scale_rows == target.hidden, "experts whose scales do not begin anew with each of them");
  const int hidden_tiles = target.hidden / kTileRows;
  m.units = hidden_tiles * (width / kDownK);
  m.down = Device<uint8_t>(static_cast<size_t>(target.experts) * m.units * down_unit_bytes(m.storage));
  check(pack_down(m.down.get(), down, target.experts, refused.get(), nullptr), "packing experts");
  check(cudaDeviceSynchronize(), "packing experts");
  source.release();
  uint32_t bad = 0;
  check(cudaMemcpy(&bad, refused.get(), 4, cudaMemcpyDeviceToHost), "packing experts");
  if (bad != 0) refuse("an expert scale of 2^-127 or NaN");
  weight_bytes += m.up.bytes() + m.down.bytes();
  m.down_tiling = {hidden_tiles, width / kDownK, 0, 0, 1, {}, {}, {}, {}};
  reserve_parts(m.down_tiling);
  const int each = down_units_of_block(target.hidden, width, blocks);
  m.units_per_pass = std::min(each, kMaxDownUnits);
  m.passes = each / m.units_per_pass;
  m.experts_per_page = down_experts_per_page(m.storage, m.units_per_pass);
  return layer;
}

Layer Model::load_draft_layer(WeightSource& source, int index) {
  const AttentionShape& a = draft.attention;
  check_attention(a);
  Layer layer;
  layer.shape = a;
  layer.turns = turns(a.rope_theta);
  layer.input_norm = vector(source, Tensor::kDraftInputNorm, index, target.hidden);
  layer.post_norm = vector(source, Tensor::kDraftPostNorm, index, target.hidden);
  if (a.sink) layer.sinks = vector(source, Tensor::kDraftSinks, index, a.q_heads);
  layer.q_norm = vector(source, Tensor::kDraftQNorm, index, a.head_dim);
  layer.k_norm = vector(source, Tensor::kDraftKNorm, index, a.head_dim);
  const Matrix q = source.get(Tensor::kDraftQ, index), k = source.get(Tensor::kDraftK, index), v = source.get(Tensor::kDraftV, index);
  std::vector<RowSource> rows;
  for (int i = 0; i < a.q_heads * a.head_dim; ++i) rows.push_back({0, 0, i});
  for (int i = 0; i < a.kv_heads * a.head_dim; ++i) rows.push_back({1, 0, i});
  for (int i = 0; i < a.kv_heads * kValueDim; ++i) rows.push_back({2, 0, i});
  need(q.storage == Storage::kBf16 && k.storage == Storage::kBf16 && v.storage == Storage::kBf16, "a draft that is not BF16");
  layer.qkv = pack(rows, target.hidden, Format::kBf16, q, k, v);
  source.release();
  layer.o = plain(source, Tensor::kDraftO, index, target.hidden, a.q_heads * kValueDim);
  const Matrix gate = source.get(Tensor::kDraftGate, index), up = source.get(Tensor::kDraftUp, index);
  layer.dense.up = gate_up(gate, up, draft.ffn_width, target.hidden);
  source.release();
  layer.dense.down = plain(source, Tensor::kDraftDown, index, target.hidden, draft.ffn_width);
  return layer;
}

void Model::load(const TargetShape& target_shape, const DraftShape* draft_shape, WeightSource& source) {
  target = target_shape;
  need(target.hidden % 256 == 0 && target.max_context > 1 && target.vocab > 0, "a hidden size that is no multiple of 256");
  need(target.hidden <= kMaxHidden, "a hidden size beyond 8192");
  need(target.layers.size() <= kMaxLayers, "more than 128 layers");
  for (const LayerShape& layer : target.layers)
    if (layer.mixture) check_mixture(target, layer.ffn_width, blocks);
  if (draft_shape != nullptr) {
    draft = *draft_shape;
    has_draft = true;
    block_size = draft.block_size;
    need(block_size >= 2 && block_size <= kRows, "a draft block outside 2 .. 8");
  }
  {
    const Matrix m = source.get(Tensor::kEmbedding, 0);
    need(m.storage == Storage::kBf16 && m.rows == target.vocab && m.cols == target.hidden, "an embedding that is not BF16 [vocab][hidden]");
    embedding_ = Device<uint16_t>(static_cast<size_t>(m.rows) * m.cols);
    check(cudaMemcpy(embedding_.get(), m.codes, embedding_.bytes(), cudaMemcpyDeviceToDevice), "the embedding");
    source.release();
  }
  if (target.head_rows == 0) target.head_rows = target.vocab;
  need(target.head_first % kTileRows == 0 && target.head_first >= 0 && target.head_first + target.head_rows <= target.vocab &&
           (target.head_first + target.head_rows == target.vocab || target.head_rows % kTileRows == 0),
       "a part of the head that does not begin or end at a multiple of 64 rows");
  head_ = plain(source, Tensor::kHead, 0, target.head_rows, target.hidden);
  final_norm_ = vector(source, Tensor::kFinalNorm, 0, target.hidden);
  for (size_t l = 0; l < target.layers.size(); ++l) layers_.push_back(load_target_layer(source, static_cast<int>(l)));
  if (has_draft) {
    for (const int tap : draft.taps) need(tap >= 0 && tap < static_cast<int>(layers_.size()), "a draft that reads a layer the target lacks");
    // A rank takes its part of k; the sum over ranks puts it together.
    const int fc_cols = target.hidden * static_cast<int>(draft.taps.size());
    const Matrix fc = source.get(Tensor::kDraftFc, 0);
    need(fc.storage == Storage::kBf16 && fc.rows == target.hidden && fc.cols == fc_cols, "a draft whose feature projection has another shape than it can hold");
    need(fc_cols % (comm.ranks * kBf16PageK) == 0, "feature columns that do not divide among the GPUs");
    draft_fc_first_ = fc_cols / comm.ranks * comm.rank;
    Matrix part = fc;
    part.codes = static_cast<const uint16_t*>(fc.codes) + draft_fc_first_;
    draft_fc_ = pack(rows_in_order(target.hidden), fc_cols / comm.ranks, Format::kBf16, part);
    source.release();
    draft_hidden_norm_ = vector(source, Tensor::kDraftHiddenNorm, 0, target.hidden);
    draft_final_norm_ = vector(source, Tensor::kDraftFinalNorm, 0, target.hidden);
    draft_mask_ = vector(source, Tensor::kDraftMask, 0, target.hidden);
    for (int l = 0; l < draft.layers; ++l) draft_layers_.push_back(load_draft_layer(source, l));
    // Keys and values of context features, for all draft layers in one linear.
    const AttentionShape& a = draft.attention;
    std::vector<float> norms;
    for (int l = 0; l < draft.layers; ++l) {
      std::vector<float> one(a.head_dim);
      check(cudaMemcpy(one.data(), draft_layers_[l].k_norm.get(), one.size() * 4, cudaMemcpyDeviceToHost), "the draft");
      norms.insert(norms.end(), one.begin(), one.end());
    }
    draft_k_norms_ = Device<float>(norms);
    const int k_rows = a.kv_heads * a.head_dim, v_rows = a.kv_heads * kValueDim;
    Device<uint16_t> together(static_cast<size_t>(draft.layers) * (k_rows + v_rows) * target.hidden);
    uint16_t* at = together.get();
    for (int l = 0; l < draft.layers; ++l) {
      for (const Tensor tensor : {Tensor::kDraftK, Tensor::kDraftV}) {
        const Matrix m = source.get(tensor, l);
        const size_t count = static_cast<size_t>(m.rows) * m.cols;
        check(cudaMemcpy(at, m.codes, count * 2, cudaMemcpyDeviceToDevice), "the draft");
        at += count;
        source.release();
      }
    }
    const int rows = draft.layers * (k_rows + v_rows);
    draft_kv_ = pack(rows_in_order(rows), target.hidden, Format::kBf16, Matrix{Storage::kBf16, together.get(), nullptr, rows, target.hidden, 0});
  }
  size_workspace();
}

void Model::load_toy(const ToyTables& toy) {
  toy_ = toy;
  is_toy = true;
  need(toy.vocab > 0 && toy.order >= 1 && toy.max_context > 1 && toy.block >= 1 && toy.block <= kRows, "a toy without tokens, or a block outside 1 .. 8");
  size_t contexts = 1;
  for (int i = 0; i < toy.order; ++i) contexts *= toy.vocab;
  need(toy.target.size() == contexts * toy.vocab && toy.draft.size() == contexts * (toy.block - 1) * toy.vocab, "toy tables of other sizes than named");
  has_draft = toy.block > 1;
  block_size = toy.block;
  target.vocab = toy.vocab;
  target.max_context = toy.max_context;
  toy_target_ = Device<float>(toy.target);
  toy_draft_ = Device<float>(toy.draft);
  size_workspace();
}

void Model::size_workspace() {
  const int hidden = target.hidden, vocab = target.vocab, tiles = is_toy ? 1 : (vocab + kTileRows - 1) / kTileRows;
  int h_slices = 0;
  size_t q_elements = 0, partial = 0;
  const auto attention = [&](const AttentionShape& a) {
    q_elements = std::max(q_elements, query_elements(a.q_heads, a.kv_heads, a.head_dim));
    partial = std::max(partial, static_cast<size_t>(chunk_places(target.max_context + kRows)) * a.q_heads * kRows * kPartialFloats);
  };
  for (const LayerShape& l : target.layers) {
    attention(l.attention);
    if (l.mixture) h_slices = std::max(h_slices, l.ffn_width / kDownK);
  }
  if (has_draft && !is_toy) attention(draft.attention);
  Workspace& w = work;
  w.residual = Device<float>(static_cast<size_t>(kRows) * hidden);
  w.squares = Device<float>(static_cast<size_t>(kRows) * (hidden / kQuantGroup));
  for (InputBuffers& in : w.inputs) {
    in.codes = Device<uint8_t>(static_cast<size_t>(kRows) * widest_input_);
    in.scales = Device<float>(static_cast<size_t>(kRows) * (widest_input_ / kQuantGroup + 1));
    in.high = Device<uint16_t>(static_cast<size_t>(kRows) * widest_input_);
    in.low = Device<uint16_t>(static_cast<size_t>(kRows) * widest_input_);
  }
  w.q = Device<uint16_t>(q_elements);
  w.partial = Device<float>(partial);
  w.h = Device<uint8_t>(static_cast<size_t>(h_slices) * kMaxStepExperts * kDownInputBytes);
  if (h_slices > 0) w.pieces = Device<float>(static_cast<size_t>(blocks) * kMostCut * kPartFloats);
  w.choice = Device<Choice>(1);
  w.epoch = Device<Epoch>(1);
  w.logits = Device<float>(static_cast<size_t>(kRows) * vocab);
  w.draft_logits = Device<float>(static_cast<size_t>(kRows) * vocab);
  w.best = Device<uint64_t>(static_cast<size_t>(kRows) * tiles);
  if (comm.ranks > 1) {
    const size_t sums = static_cast<size_t>(hidden / kQuantGroup) * kGroupFloats;
    w.inbox = Device<float>(2 * sums * comm.ranks);
    w.outbox = Device<float>(sums);
  }
  comm.best[comm.rank] = w.best.get();
  comm.inbox[comm.rank] = w.inbox.get();
  comm.outbox[comm.rank] = w.outbox.get();
  w.row = Device<double>(static_cast<size_t>(kRows) * vocab);
  w.draft_row = Device<double>(static_cast<size_t>(kRows) * vocab);
  if (has_draft && !is_toy) {
    w.tap_high = Device<uint16_t>(static_cast<size_t>(kRows) * hidden * draft.taps.size());
    w.tap_low = Device<uint16_t>(static_cast<size_t>(kRows) * hidden * draft.taps.size());
  }
}

void Model::reserve_parts(const Tiling& t) {
  Device<float>& buffer = work.parts[{t.tiles, t.slices, t.pages, t.blocks}];
  if (buffer.size() == 0) buffer = Device<float>(static_cast<size_t>(part_places(t)) * kPartFloats);
}

Caches Model::make_caches() const {
  Caches caches;
  const auto add = [&](const AttentionShape& a, int sets) {
    const size_t places = static_cast<size_t>(sets) * a.kv_heads * (target.max_context + kRows);
    caches.keys.emplace_back(places * a.head_dim);
    caches.values.emplace_back(places * kValueDim);
  };
  for (const LayerShape& l : target.layers) add(l.attention, 1);
  if (has_draft && !is_toy) add(draft.attention, draft.layers);
  return caches;
}

}  // namespace kilotoken::stack
