// The list of instructions of a sequence: what waits for what, and which buffers lie between. See persistent/instruction.h for the rules that it keeps.
#include <algorithm>
#include <cstring>
#include <tuple>

#include "model.h"

namespace kilotoken::stack {

class ProgramBuilder {
 public:
  ProgramBuilder(const Model& model, const Caches& caches) : m_(model), w_(model.work), caches_(caches) {}

  // How often a buffer is used is known only behind the last instruction, so the list is made twice.
  std::vector<Instruction> build(int& verify) {
    for (int round = 0; round < 2; ++round) {
      for (auto& [key, count] : counts_) {
        count.total[0] = count.seen[0], count.total[1] = count.seen[1];
        count.seen[0] = count.seen[1] = 0;
      }
      list_.clear();
      reductions_ = 0;
      in_verify_ = false;
      if (m_.is_toy) toy(); else network();
      verify = verify_;
    }
    return list_;
  }

 private:
  using Key = std::tuple<int, int, int, int>;
  struct Count {
    int seen[2] = {}, total[2] = {};  // draft part, verify part
  };
  static constexpr Key kChoiceKey{-1, 0, 0, 0}, kBestKey{-2, 0, 0, 0}, kPiecesKey{-4, 0, 0, 0}, kCommKeys[2] = {{-3, 0, 0, 0}, {-3, 1, 0, 0}};

  // A new use of a buffer.
  Uses use(const Key& key) {
    Count& c = counts_[key];
    const int before = c.seen[in_verify_]++;
    return static_cast<Uses>((before & 1) | (c.total[0] & 1) << 1 | (c.total[1] & 1) << 2);
  }

  // workers: 0: all blocks.
  Instruction& add(Op op, int waits = -1, int workers = 0) {
    Instruction ins;
    std::memset(&ins, 0, sizeof ins);
    ins.op = op;
    ins.layer = layer_;
    ins.waits = waits;
    ins.arrivals = waits >= 0 ? static_cast<uint32_t>(list_[waits].workers) : 0;
    ins.workers = workers > 0 ? std::min(workers, m_.blocks) : m_.blocks;
    list_.push_back(ins);
    return list_.back();
  }
  int last() const { return static_cast<int>(list_.size()) - 1; }
  void begin_verify() {
    verify_ = static_cast<int>(list_.size());
    in_verify_ = true;
  }

  const InputBuffers& buffers(Reader reader) const { return w_.inputs[static_cast<int>(reader)]; }
  Inputs inputs(Reader reader, Format format) const {
    const InputBuffers& in = buffers(reader);
    return format == Format::kE4m3 ? Inputs{in.codes.get(), in.scales.get(), nullptr, nullptr} : Inputs{nullptr, nullptr, in.high.get(), in.low.get()};
  }
  Inputs both_inputs(Reader reader) const {
    const InputBuffers& in = buffers(reader);
    return {in.codes.get(), in.scales.get(), in.high.get(), in.low.get()};
  }

  Parts parts_of(const Tiling& t) {
    const Key key{t.tiles, t.slices, t.pages, t.blocks};
    return {w_.parts.at(key).get(), t, use(key)};
  }

  void linear_from(const Linear& l, const void* input, const void* input2, int waits) {
    parts_ = parts_of(l.tiling);
    add(Op::kLinear, waits).linear = {l.pages.get(), l.tiling, l.format, input, input2, const_cast<float*>(parts_.data), parts_.uses};
  }
  void linear(const Linear& l, Reader reader, int waits) {
    const Inputs in = inputs(reader, l.format);
    linear_from(l, in.codes != nullptr ? static_cast<const void*>(in.codes) : in.high, in.scales != nullptr ? static_cast<const void*>(in.scales) : in.low, waits);
  }

  Norm norm_of(float epsilon) const {
    return {w_.squares.get(), m_.target.hidden / kQuantGroup, static_cast<float>(m_.target.hidden), epsilon};
  }

  void embed(const Layer& first, bool draft, int waits) {
    add(Op::kEmbed, waits, m_.target.hidden / kQuantGroup).embed = {
        m_.embedding_.get(), draft ? m_.draft_mask_.get() : nullptr, draft ? m_.draft.mask_id : -1, first.input_norm.get(),
        w_.residual.get(), w_.squares.get(), inputs(Reader::kQkv, first.qkv.format), m_.target.hidden};
  }

  // Adds the parts of a branch to the residual and makes the inputs of what follows.
  ReduceArgs& reduce(const float* weight, Inputs out) {
    Instruction& ins = add(Op::kReduce, -1, m_.target.hidden / kQuantGroup);
    ins.reduce.parts = parts_;
    ins.reduce.residual = w_.residual.get();
    ins.reduce.norm_weight = weight;
    ins.reduce.squares = w_.squares.get();
    ins.reduce.out = out;
    ins.reduce.hidden = m_.target.hidden;
    if (m_.comm.ranks > 1) {
      ins.reduce.comm_half = m_.comm.one_hop ? reductions_++ % 2 : 0;
      ins.reduce.comm_uses = use(kCommKeys[ins.reduce.comm_half]);
    }
    return ins.reduce;
  }

  // Behind the projection's inputs: projection, attention, output projection.
  void attention(const Layer& layer, const Norm& norm, uint16_t* keys, uint16_t* values, bool draft) {
    const AttentionShape& a = layer.shape;
    const int places = m_.target.max_context + kRows;
    linear(layer.qkv, Reader::kQkv, last());
    const Inputs out = inputs(Reader::kO, layer.o.format);
    const float value_scale = draft ? m_.draft.value_scale : m_.target.value_scale;
    const Tiling& qkv = layer.qkv.tiling;
    if (!draft && a.window > 0 && a.window <= 128 && a.head_dim == 192 && a.q_heads <= m_.blocks && qkv.slices == 1 && qkv.most <= kMostPieces) {
      Instruction& ins = add(Op::kAttendWindow, -1, a.q_heads);
      ins.first = m_.blocks - a.q_heads;
      windows_ = std::max(windows_, a.q_heads);
      ins.window = {parts_, norm, keys, values, layer.sinks.get(), layer.turns, out, value_scale,
                                                      a.q_heads, a.kv_heads, places, a.window, divisor(static_cast<uint32_t>(a.q_heads / a.kv_heads))};
    } else {
      QkvArgs& q = add(Op::kQkv, -1, a.q_heads + 2 * a.kv_heads).qkv;
      q.parts = parts_;
      q.norm = norm;
      q.q = w_.q.get();
      q.keys = keys;
      q.values = values;
      q.q_norm = layer.q_norm.get();
      q.k_norm = layer.k_norm.get();
      q.turns = layer.turns;
      q.value_scale = value_scale;
      q.head_epsilon = draft ? m_.draft.epsilon : m_.target.epsilon;
      q.q_heads = a.q_heads;
      q.kv_heads = a.kv_heads;
      q.head_dim = a.head_dim;
      q.sets = 1;
      q.max_context = places;
      AttendArgs t{};
      t.q = w_.q.get();
      t.keys = keys;
      t.values = values;
      t.sinks = layer.sinks.get();
      t.out = out;
      t.partial = w_.partial.get();
      t.q_heads = a.q_heads;
      t.kv_heads = a.kv_heads;
      t.head_dim = a.head_dim;
      t.max_context = places;
      t.window = a.window;
      t.both_ways = draft;
      add(Op::kAttend, last()).attend = t;
      add(Op::kCombine, last(), a.q_heads * kRows).attend = t;
    }
    linear(layer.o, Reader::kO, last());
  }

  void dense(const DenseFfn& ffn, int width, const Norm& norm) {
    linear(ffn.up, Reader::kFfn, last());
    add(Op::kSwiglu, -1, width / kQuantGroup).swiglu = {parts_, norm, inputs(Reader::kDown, ffn.down.format), width};
    linear(ffn.down, Reader::kDown, last());
  }

  void mixture(const Mixture& m, const Norm& norm, int index) {
    const TargetShape& t = m_.target;
    const int inputs_made = last();
    linear(m.router, Reader::kFfn, inputs_made);
    const Uses uses = use(kChoiceKey);
    Instruction& chooser = add(Op::kTopk, -1, kRows);
    chooser.first = std::max(0, m_.blocks - kRows - windows_);
    chooser.topk = {parts_, norm, m.bias.get(), w_.choice.get(), uses, t.experts, t.experts_per_token, m.router_tiles, m.low_tiles,
                                      t.normalise_expert_weights, t.routed_scale, t.shared_routing, layer_};
    const InputBuffers& in = buffers(Reader::kFfn);
    add(Op::kExpertsUp, inputs_made).up = {m.up.get(), w_.choice.get(), uses, in.codes.get(), in.scales.get(), norm, w_.h.get(), w_.pieces.get(), use(kPiecesKey), m.storage, t.experts,
                                           t.experts_per_token, m.tiles, m.segments, m.pages_per_segment, m.page_k, divisor(static_cast<uint32_t>(m.tiles)),
                                           divisor(static_cast<uint32_t>(m.segments)), divisor(static_cast<uint32_t>(m_.blocks)), m.units, m.passes * m.units_per_pass,
                                           divisor(static_cast<uint32_t>(m.down_tiling.tiles)), index};
    parts_ = parts_of(m.down_tiling);
    add(Op::kExpertsDown, last()).down = {m.down.get(), w_.choice.get(), uses, w_.h.get(), const_cast<float*>(parts_.data), parts_.uses, m.storage, t.experts, m.units,
                                          m.down_tiling.tiles, divisor(static_cast<uint32_t>(m.down_tiling.tiles)), divisor(static_cast<uint32_t>(m.tiles)), m.tiles, m.passes, m.units_per_pass, m.experts_per_page};
  }

  void pick(Op op) {
    // All blocks report, so that none is still at the beginning of a pass when its end is decided.
    add(op, last()).pick = {op == Op::kPickDraft ? w_.draft_logits.get() : w_.logits.get(), best_, w_.row.get(), w_.draft_row.get(), m_.target.vocab,
                            m_.is_toy ? 1 : (m_.target.vocab + kTileRows - 1) / kTileRows};
  }

  void head(const Norm& norm, float* logits) {
    linear(m_.head_, Reader::kHead, last());
    best_ = use(kBestKey);
    add(Op::kLogits).logits = {parts_, norm, logits, best_, m_.target.vocab, m_.target.head_first, m_.target.head_rows};
  }

  void toy() {
    const ToyTables& t = m_.toy_;
    const auto table = [&](bool draft) {
      best_ = use(kBestKey);
      add(Op::kToy).toy = {draft ? m_.toy_draft_.get() : m_.toy_target_.get(), draft ? w_.draft_logits.get() : w_.logits.get(), best_, t.vocab, t.order,
                           draft ? t.block - 1 : 1, 1, draft};
    };
    if (m_.has_draft) {
      table(true);
      pick(Op::kPickDraft);
    }
    const int drafted = last();
    begin_verify();
    table(false);
    list_.back().waits = drafted;
    list_.back().arrivals = drafted >= 0 ? static_cast<uint32_t>(m_.blocks) : 0;
    pick(Op::kPick);
    add(Op::kAccept, last(), 1);
  }

  void network() {
    const TargetShape& t = m_.target;
    const DraftShape& d = m_.draft;
    const size_t draft_places = static_cast<size_t>(d.attention.kv_heads) * (t.max_context + kRows);
    layer_ = 0;
    if (m_.has_draft) {
      const Norm norm = norm_of(d.epsilon);
      embed(m_.draft_layers_[0], true, -1);
      for (int l = 0; l < d.layers; ++l) {
        const Layer& layer = m_.draft_layers_[l];
        layer_ = static_cast<uint32_t>(l);
        attention(layer, norm, caches_.keys.back().get() + l * draft_places * d.attention.head_dim,
                  caches_.values.back().get() + l * draft_places * kValueDim, true);
        reduce(layer.post_norm.get(), inputs(Reader::kFfn, layer.dense.up.format));
        dense(layer.dense, d.ffn_width, norm);
        const bool last_layer = l + 1 == d.layers;
        reduce(last_layer ? m_.draft_final_norm_.get() : m_.draft_layers_[l + 1].input_norm.get(),
               last_layer ? inputs(Reader::kHead, m_.head_.format) : inputs(Reader::kQkv, m_.draft_layers_[l + 1].qkv.format));
      }
      head(norm, w_.draft_logits.get());
      pick(Op::kPickDraft);
    }
    const int drafted = last();
    begin_verify();

    const Norm norm = norm_of(t.epsilon);
    layer_ = 0;
    embed(m_.layers_[0], false, drafted);
    int mixtures = 0;
    for (size_t l = 0; l < m_.layers_.size(); ++l) {
      const Layer& layer = m_.layers_[l];
      layer_ = static_cast<uint32_t>(l);
      attention(layer, norm, caches_.keys[l].get(), caches_.values[l].get(), false);
      if (layer.mixture) {
        reduce(layer.post_norm.get(), both_inputs(Reader::kFfn));
        mixture(layer.experts, norm, mixtures++);
      } else {
        reduce(layer.post_norm.get(), inputs(Reader::kFfn, layer.dense.up.format));
        dense(layer.dense, t.layers[l].ffn_width, norm);
      }
      const bool last_layer = l + 1 == m_.layers_.size();
      ReduceArgs& r = reduce(last_layer ? m_.final_norm_.get() : m_.layers_[l + 1].input_norm.get(),
                             last_layer ? inputs(Reader::kHead, m_.head_.format) : inputs(Reader::kQkv, m_.layers_[l + 1].qkv.format));
      if (m_.has_draft) {
        for (size_t tap = 0; tap < d.taps.size(); ++tap)
          if (d.taps[tap] == static_cast<int>(l))
            r.tap = {nullptr, nullptr, w_.tap_high.get() + tap * t.hidden * kRows, w_.tap_low.get() + tap * t.hidden * kRows};
      }
    }
    head(norm, w_.logits.get());
    pick(Op::kPick);
    if (m_.has_draft) {
      // The draft's context: features of all rows; those behind a refused draft are overwritten by the next round.
      linear_from(m_.draft_fc_, w_.tap_high.get() + m_.draft_fc_first_ * kRows, w_.tap_low.get() + m_.draft_fc_first_ * kRows, last());
      reduce(m_.draft_hidden_norm_.get(), inputs(Reader::kDraftContext, Format::kBf16)).residual = nullptr;
      linear(m_.draft_kv_, Reader::kDraftContext, last());
      const AttentionShape& a = d.attention;
      QkvArgs& q = add(Op::kQkv).qkv;  // all blocks report, as in pick()
      q.parts = parts_;
      q.norm = norm_of(d.epsilon);
      q.keys = caches_.keys.back().get();
      q.values = caches_.values.back().get();
      q.k_norm = m_.draft_k_norms_.get();
      q.turns = m_.draft_layers_[0].turns;
      q.value_scale = d.value_scale;
      q.head_epsilon = d.epsilon;
      q.kv_heads = a.kv_heads;
      q.head_dim = a.head_dim;
      q.sets = d.layers;
      q.max_context = t.max_context + kRows;
      q.key_set_stride = draft_places * a.head_dim;
      q.value_set_stride = draft_places * kValueDim;
    }
    add(Op::kAccept, last(), 1);
  }

  const Model& m_;
  const Workspace& w_;
  const Caches& caches_;
  std::map<Key, Count> counts_;
  std::vector<Instruction> list_;
  Parts parts_{};  // of the last linear
  Uses best_ = 0;  // of the last logits
  // Reductions take the first blocks, windows the last ones, routers those before them: a multiprocessor's instruction cache holds what one of the three and the
  // products need, and not much more.
  int windows_ = 0;  // blocks of the largest window so far
  uint32_t layer_ = 0;
  int verify_ = 0, reductions_ = 0;
  bool in_verify_ = false;
};

std::vector<Instruction> Model::instructions(const Caches& caches, int& verify) const { return ProgramBuilder(*this, caches).build(verify); }

}  // namespace kilotoken::stack
