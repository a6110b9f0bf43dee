#include "operations.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "core/bf16.h"
#include "core/e4m3.h"
#include "expected.h"
#include "json.h"
#include "kernels/model.h"
#include "weights.h"

namespace kilotoken::bench {

namespace {

using namespace stack;

constexpr int kDenseLayers = 18, kMixtureLayers = 22;  // 200 MB of the smallest matrix of each
constexpr double kLaunchBytes = 4e9;                   // read by one timed launch, at least
constexpr int kRepeats = 7;
constexpr int kPartBuffers = 6, kPairBuffers = 2;
constexpr int kSampledRows = 16;
// Of the sum of |terms|. The tensor core's 32 products of E4M3 lose up to 2^-10 of the largest one (measured on an H200), which comes to some 1e-6 of the sum of
// all magnitudes at these lengths; one term missing or doubled is 2e-4 at the longest.
constexpr double kBound = 2e-5;

constexpr uint32_t kInputSeed = 1u << 20;  // a "layer" of its own for the streams of inputs

// --- inputs of a step

struct StepInputs {
  Device<uint8_t> codes;
  Device<float> scales;
  Device<uint16_t> high, low;
  HostInputs e4m3, bf16;  // the same as numbers
};

StepInputs make_inputs(int live, int k) {
  const Stream codes_from = stream_of(Tensor::kEmbedding, kInputSeed), low_from = stream_of(Tensor::kHead, kInputSeed);
  std::vector<uint8_t> codes(static_cast<size_t>(kRows) * k);
  std::vector<float> scales(static_cast<size_t>(kRows) * (k / kQuantGroup), 1.0f);
  std::vector<uint16_t> high(static_cast<size_t>(kRows) * k), low(high.size());
  StepInputs out;
  out.e4m3.k = out.bf16.k = k;
  for (int row = 0; row < live; ++row) {
    std::vector<double> as_e4m3(k), as_bf16(k);
    for (int i = 0; i < k; ++i) {
      const uint64_t place = static_cast<uint64_t>(row) * k + i;
      const uint8_t code = e4m3_at(codes_from, place);
      const float scale = 24.0f * scale_at(low_from, static_cast<uint64_t>(row) * (k / kQuantGroup) + i / kQuantGroup);
      codes[e4m3_input_offset(row, i)] = code;
      scales[static_cast<size_t>(i / kQuantGroup) * kRows + row] = scale;
      as_e4m3[i] = static_cast<double>(e4m3_to_float(code)) * scale;
      const uint16_t upper = bf16_at(codes_from, place), lower = static_cast<uint16_t>(bf16_at(low_from, place) - (9 << 7));  // 2^-9 of such a number
      high[bf16_input_index(row, i)] = upper;
      low[bf16_input_index(row, i)] = lower;
      as_bf16[i] = static_cast<double>(bf16_to_float(upper)) + bf16_to_float(lower);
    }
    out.e4m3.rows.push_back(std::move(as_e4m3));
    out.bf16.rows.push_back(std::move(as_bf16));
  }
  out.codes = Device<uint8_t>(codes);
  out.scales = Device<float>(scales);
  out.high = Device<uint16_t>(high);
  out.low = Device<uint16_t>(low);
  return out;
}

// --- one launch

constexpr Norm kNoNorm{nullptr, 0, 1.0f, 1.0f};  // a factor of one

// Runs a list that ends in kAccept as one pass of the resident kernel: a prompt of `live` tokens.
class Runner {
 public:
  explicit Runner(int blocks) : blocks_(blocks), state_(1), tokens_(64), epoch_(1) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
    check(cudaHostAlloc(reinterpret_cast<void**>(&mailbox_), sizeof(Mailbox), cudaHostAllocMapped), "pinned memory");
  }
  ~Runner() {
    cudaFreeHost(mailbox_);
    cudaStreamDestroy(stream_);
  }
  Runner(const Runner&) = delete;

  int blocks() const { return blocks_; }

  void set(const std::vector<Instruction>& list, int live) {
    list_ = DeviceList(list);
    live_ = live;
  }

  // Microseconds from the first instruction's begin to the last one's.
  double run() {
    std::memset(mailbox_, 0, sizeof(Mailbox));
    SessionState s{};
    s.block_size = 1;
    s.max_context = 64;
    s.max_tokens = 1;
    s.prompt_length = s.length = s.rows = static_cast<uint32_t>(live_);
    s.tokens = tokens_.get();
    s.phase = Phase::kPrefill;
    copy_in(state_.get(), &s, sizeof s, "the sequence");
    Program program{};
    list_.give(program);
    program.epoch = epoch_.get();
    program.comm = comm_;
    check(launch_resident(program, state_.get(), mailbox_, 1, blocks_, stream_), "a launch");
    const cudaError_t status = cudaStreamSynchronize(stream_);
    if (mailbox_->fault.code != 0)
      throw KernelFault("a wait ran out (" + std::to_string(mailbox_->fault.code) + ", instruction " + std::to_string(mailbox_->fault.detail) + ")",
                        mailbox_->fault.code);
    check(status, "the kernel");
    const RoundRecord& r = mailbox_->rounds[0];
    if (r.sequence != 1) throw KernelFault("a launch ended without its record", 0);
    return static_cast<double>(r.ended_ns - r.began_ns) / 1e3;
  }

 private:
  int blocks_, live_ = 0;
  Device<SessionState> state_;
  Device<int32_t> tokens_;
  Device<Epoch> epoch_;
  Comm comm_;              // this GPU alone
  DeviceList list_;
  Mailbox* mailbox_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

class List {
 public:
  explicit List(int blocks) : blocks_(blocks) {}

  // workers: 0: all blocks.
  Instruction& add(Op op, int waits = -1, int workers = 0) {
    Instruction ins;
    std::memset(&ins, 0, sizeof ins);
    ins.op = op;
    ins.waits = waits;
    ins.arrivals = waits >= 0 ? static_cast<uint32_t>(list_[waits].workers) : 0;
    ins.workers = workers > 0 ? std::min(workers, blocks_) : blocks_;
    list_.push_back(ins);
    return list_.back();
  }
  int last() const { return static_cast<int>(list_.size()) - 1; }
  int blocks() const { return blocks_; }
  std::vector<Instruction> finish() {
    add(Op::kAccept, last(), 1);
    return std::move(list_);
  }

 private:
  int blocks_;
  std::vector<Instruction> list_;
};

// A buffer's n-th use in a launch that begins with cleared buffers.
Uses use(int n) { return static_cast<Uses>(n & 1); }

// Where the sums of a call go, and the parts on their way there. Both have a place for each of kPartBuffers calls that follow one another: in a stream
// different blocks take them, one call's perhaps before those of the call before.
class Sums {
 public:
  Sums(const Tiling& tiling, int rows) : tiling_(tiling), rows_(rows) {
    for (Device<float>& p : parts_) p = Device<float>(static_cast<size_t>(part_places(tiling)) * kPartFloats);
    for (Device<float>& o : out_) o = Device<float>(static_cast<size_t>(kRows) * rows);
  }
  float* parts(int call) const { return parts_[call % kPartBuffers].get(); }
  static Uses uses(int call) { return use(call / kPartBuffers); }

  // Adds up the parts of `call`, the first tile on block `first`; returns the instruction's index.
  int add_to(List& list, int call, int waits = -1, int first = 0) const {
    Instruction& ins = list.add(Op::kLogits, waits, tiling_.tiles);
    ins.first = first;
    LogitsArgs& args = ins.logits;
    args.parts = {parts(call), tiling_, uses(call)};
    args.logits = out_[call % kPartBuffers].get();
    args.best_uses = kNobodyAsks;
    args.vocab = args.rows = rows_;
    return list.last();
  }
  // The same in a stream of as many calls as `summed` has places, where each call's tiles go to the blocks behind those that took the last: all blocks have equal parts. The last calls'
  // sums wait for those of the call before (the others have been waited for by then), so that all sums are stored when the last ones are.
  void add_in_turn(List& list, int call, std::vector<int>& summed) const {
    const bool among_last = call > 0 && call + kPartBuffers > static_cast<int>(summed.size());
    summed[call] = add_to(list, call, among_last ? summed[call - 1] : -1, static_cast<int>(int64_t{call} * tiling_.tiles % list.blocks()));
  }
  void clear() {
    for (Device<float>& p : parts_) check(cudaMemset(p.get(), 0, p.bytes()), "parts");
    for (Device<float>& o : out_) check(cudaMemset(o.get(), 0, o.bytes()), "sums");
    check(cudaStreamSynchronize(nullptr), "parts");
  }
  // Of `call`: [kRows][rows]
  std::vector<float> read(int call) const {
    const Device<float>& out = out_[call % kPartBuffers];
    std::vector<float> values(out.size());
    check(cudaMemcpy(values.data(), out.get(), out.bytes(), cudaMemcpyDeviceToHost), "sums");
    return values;
  }
  int rows() const { return rows_; }

 private:
  Tiling tiling_;
  int rows_;
  std::array<Device<float>, kPartBuffers> parts_, out_;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) { return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0; }

void compare(Operation& op, double got, const Sum& want) {
  ++op.values;
  const double error = std::abs(got - want.value) / want.magnitude;
  if (!(error <= op.error)) op.error = error;  // a NaN is kept
}

void refuse_wrong(const Operation& op) {
  if (!(op.error <= op.bound))
    throw KernelFault(op.op + " (" + op.weights + ") at " + std::to_string(op.live_rows) + " rows: off by " + std::to_string(op.error) + " of its terms", 0);
}

// Times the list that `make` gives for so many calls; the last call's sums must have the bits of `alone`.
template <class Make, class Clear>
void time_calls(Operation& op, Runner& runner, const Sums& sums, const std::vector<float>& alone, Make make, Clear clear) {
  op.calls = op.copies * std::max(1, static_cast<int>(std::ceil(kLaunchBytes / (static_cast<double>(op.bytes) * op.copies))));
  runner.set(make(op.calls), op.live_rows);
  for (int repeat = -1; repeat < kRepeats; ++repeat) {
    clear();
    const double us = runner.run();
    if (!same_bits(sums.read(op.calls - 1), alone)) throw KernelFault(op.op + ": a call in a row of many has other bits than alone", 0);
    if (repeat >= 0) op.span_us.push_back(us);
  }
}

// --- linears

// A matrix of the bench in all its copies.
struct Matrices {
  std::string op, weights;
  Tensor tensor;     // kGate: gate and up rows by turns of eight
  Stored stored;
  int rows, k;       // as stored; rows of gate and up together
  std::vector<LinearArgs> copies;
  std::vector<int> layers;
};

uint64_t stored_bytes(const Matrices& m) {
  const uint64_t count = static_cast<uint64_t>(m.rows) * m.k;
  switch (m.stored) {
    case Stored::kE4m3: return count + static_cast<uint64_t>((m.rows + 127) / 128) * ((m.k + 127) / 128) * 4;
    case Stored::kBf16: return count * 2;
    case Stored::kF32: return count * 4;
  }
  return 0;
}

std::vector<Instruction> linear_list(const std::vector<LinearArgs>& copies, int calls, bool chain, const StepInputs& x, const Sums& sums, int blocks) {
  List list(blocks);
  std::vector<int> summed(calls, -1);
  for (int i = 0; i < calls; ++i) {
    const int behind = chain ? i - 1 : i - kPartBuffers;
    LinearArgs& args = list.add(Op::kLinear, behind >= 0 ? summed[behind] : -1).linear;
    args = copies[i % copies.size()];
    const bool e4m3 = args.format == Format::kE4m3;
    args.input = e4m3 ? static_cast<const void*>(x.codes.get()) : x.high.get();
    args.input2 = e4m3 ? static_cast<const void*>(x.scales.get()) : x.low.get();
    args.parts = sums.parts(i);
    args.uses = Sums::uses(i);
    if (chain) summed[i] = sums.add_to(list, i);
    else if (i > 0) sums.add_in_turn(list, i - 1, summed);
  }
  if (!chain) sums.add_in_turn(list, calls - 1, summed);
  return list.finish();
}

// The sums of row `row` of the stored matrix, where the product has left them: gate and up rows take turns of eight; a binary32 matrix is two products.
double value_of(const Matrices& m, const std::vector<float>& sums, int of_step, int row, int all_rows) {
  const float* line = sums.data() + static_cast<size_t>(of_step) * all_rows;
  if (m.tensor == Tensor::kGate) {
    const int half = m.rows / 2, inner = row % half;
    return line[inner / 8 * 16 + row / half * 8 + inner % 8];
  }
  if (m.stored == Stored::kF32) return static_cast<double>(line[row]) + line[(m.rows + kTileRows - 1) / kTileRows * kTileRows + row];
  return line[row];
}

void check_linear(Operation& op, const Matrices& m, int layer, const StepInputs& x, const std::vector<float>& got, int all_rows) {
  const HostInputs& inputs = m.stored == Stored::kE4m3 ? x.e4m3 : x.bf16;
  for (int i = 0; i < kSampledRows; ++i) {
    const int row = i * (m.rows - 1) / (kSampledRows - 1);
    const bool upper = m.tensor == Tensor::kGate && row >= m.rows / 2;
    const std::vector<Sum> want = linear_row(upper ? Tensor::kUp : m.tensor, layer, m.stored, upper ? row - m.rows / 2 : row, inputs);
    for (size_t r = 0; r < want.size(); ++r) compare(op, value_of(m, got, static_cast<int>(r), row, all_rows), want[r]);
  }
}

void measure_linear(const Matrices& m, Runner& runner, std::vector<Operation>& out) {
  const Tiling& tiling = m.copies[0].tiling;
  // Rows as the product has them: with what a tile is padded by where two products follow one another.
  Sums sums(tiling, m.stored == Stored::kF32 ? tiling.tiles * kTileRows : m.rows);
  for (const int live : {1, 2, 4, 8}) {
    const StepInputs x = make_inputs(live, m.k);
    Operation op;
    op.op = m.op, op.weights = m.weights, op.rows = m.rows, op.k = m.k, op.live_rows = live;
    op.bytes = stored_bytes(m);
    op.copies = static_cast<int>(m.copies.size());
    op.bound = kBound;
    std::vector<float> alone;
    for (const size_t copy : {size_t{0}, m.copies.size() - 1}) {
      sums.clear();
      runner.set(linear_list({m.copies[copy]}, 1, true, x, sums, runner.blocks()), live);
      runner.run();
      alone = sums.read(0);
      check_linear(op, m, m.layers[copy], x, alone, sums.rows());
    }
    refuse_wrong(op);
    for (const bool chain : {false, true}) {
      Operation timed = op;
      timed.arrangement = chain ? "chain" : "stream";
      time_calls(timed, runner, sums, alone, [&](int calls) { return linear_list(m.copies, calls, chain, x, sums, runner.blocks()); }, [&] { sums.clear(); });
      out.push_back(std::move(timed));
    }
  }
}

// --- the expert pair

// One layer's experts, and what chooses among them.
struct Pair {
  int layer;
  TopkArgs topk;
  ExpertsUpArgs up;
  ExpertsDownArgs down;
};

// A set of experts that a step of `live` rows chooses: by row eight of them, with logits as the router's sums would be.
struct ChosenSet {
  std::vector<int> ids;                       // ascending
  std::vector<std::vector<double>> weights;   // [live row][place in ids]
  Device<float> parts;                        // of a router
  Device<Choice> choice;                      // what comes of them, where it is made before
};

// What chooses a set into `choice`.
TopkArgs chooser(const TopkArgs& topk, const ChosenSet& set, const Device<float>& bias, Choice* choice, Uses uses) {
  TopkArgs args = topk;
  args.parts.data = set.parts.get();
  args.parts.uses = use(0);
  args.norm = kNoNorm;
  args.bias = bias.get();
  args.choice = choice;
  args.uses = uses;
  return args;
}

ChosenSet choose(const TopkArgs& topk, int live, int count, int set, int sets) {
  ChosenSet out;
  for (int i = 0; i < count; ++i) out.ids.push_back(set + i * sets);
  const Tiling& t = topk.parts.tiling;
  const float zero = [] {
    const uint32_t marked = 1;
    float x;
    std::memcpy(&x, &marked, 4);
    return x;
  }();
  std::vector<float> parts(static_cast<size_t>(part_places(t)) * kPartFloats, zero);
  const auto put = [&](int row, int expert, float logit) {
    uint32_t bits;
    std::memcpy(&bits, &logit, 4);
    bits |= 1;  // the mark of a first use
    float* at = &parts[static_cast<size_t>(pieces_of(t, expert / kTileRows).first) * kPartFloats + row * kTileRows + expert % kTileRows];
    std::memcpy(at, &bits, 4);
  };
  for (int row = 0; row < live; ++row) {
    for (int e = 0; e < topk.experts; ++e) put(row, e, -8.0f);
    // Its part of the set first, then others in turn, until there are eight: together the rows choose all of it.
    std::vector<int> mine;
    for (int i = row * count / live; i < (row + 1) * count / live && mine.size() < 8; ++i) mine.push_back(i);
    for (int i = row * 5; mine.size() < 8; ++i)
      if (std::find(mine.begin(), mine.end(), i % count) == mine.end()) mine.push_back(i % count);
    std::vector<double> probability(count, 0.0);
    double total = 0;
    for (size_t n = 0; n < mine.size(); ++n) {
      const float logit = 2.0f + 0.125f * static_cast<float>(n);
      put(row, out.ids[mine[n]], logit);
      total += probability[mine[n]] = 1 / (1 + std::exp(-static_cast<double>(logit)));
    }
    for (double& p : probability) p /= total;
    out.weights.push_back(std::move(probability));
  }
  out.parts = Device<float>(parts);
  out.choice = Device<Choice>(1);
  return out;
}

// Makes the choices of all sets by a launch of their own; every row's must be the experts that were meant. Nothing but bit 0 of Uses is in force in the bench, so what is marked as a first use
// here is one for every launch after it.
void make_choices(const std::vector<ChosenSet>& sets, const TopkArgs& topk, const Device<float>& bias, Runner& runner, int live) {
  List list(runner.blocks());
  for (size_t i = 0; i < sets.size(); ++i) {
    Instruction& ins = list.add(Op::kTopk, -1, kRows);
    ins.first = static_cast<int>(i * kRows % static_cast<size_t>(runner.blocks()));
    ins.topk = chooser(topk, sets[i], bias, sets[i].choice.get(), use(0));
  }
  runner.set(list.finish(), live);
  runner.run();
  for (const ChosenSet& set : sets) {
    Choice made;
    check(cudaMemcpy(&made, set.choice.get(), sizeof made, cudaMemcpyDeviceToHost), "choices");
    for (int row = 0; row < kRows; ++row) {
      uint32_t want[kMaskWords] = {}, marked = ~0u;
      for (size_t n = 0; row < live && n < set.ids.size(); ++n)
        if (set.weights[row][n] > 0) want[set.ids[n] / 16] |= 1u << (set.ids[n] % 16);
      bool same = true;
      for (int word = 0; word < kMaskWords; ++word) {
        same = same && (made.masks[row][word] & 0xffffu) == want[word];
        marked &= made.masks[row][word];
      }
      if (!same || marked >> 31 == 0) throw KernelFault("expert-pair: a row has other experts than those that were meant", 0);
    }
  }
}

class PairBuffers {
 public:
  explicit PairBuffers(int blocks) {
    for (Device<float>& p : pieces_) p = Device<float>(static_cast<size_t>(blocks) * kMostCut * kPartFloats);
    for (Device<uint8_t>& h : h_) h = Device<uint8_t>(static_cast<size_t>(kSlices) * kMaxStepExperts * kDownInputBytes);
    for (Device<Choice>& c : choice_) c = Device<Choice>(1);
  }
  uint8_t* h(int call) const { return h_[call % kPairBuffers].get(); }
  Choice* choice(int call) const { return choice_[call % kPairBuffers].get(); }
  float* pieces(int call) const { return pieces_[call % kPairBuffers].get(); }
  static Uses uses(int call) { return use(call / kPairBuffers); }
  void clear() {
    for (Device<float>& p : pieces_) check(cudaMemset(p.get(), 0, p.bytes()), "pieces");
    for (Device<Choice>& c : choice_) check(cudaMemset(c.get(), 0, c.bytes()), "choices");
    check(cudaStreamSynchronize(nullptr), "choices");
  }
  std::vector<uint8_t> read_h() const {
    std::vector<uint8_t> bytes(h_[0].size());
    check(cudaMemcpy(bytes.data(), h_[0].get(), h_[0].bytes(), cudaMemcpyDeviceToHost), "h");
    return bytes;
  }

 private:
  static constexpr int kSlices = kExpertWidth / kDownK;
  std::array<Device<uint8_t>, kPairBuffers> h_;
  std::array<Device<float>, kPairBuffers> pieces_;
  std::array<Device<Choice>, kPairBuffers> choice_;
};

// A call: a layer's experts, and the set of them.
struct PairCall {
  const Pair* pair;
  const ChosenSet* set;
};

// `before`: whether all choices have been made (not in a chain).
std::vector<Instruction> pair_list(const std::vector<PairCall>& copies, int calls, bool chain, bool before, const StepInputs& x, const Sums& sums, const PairBuffers& buffers,
                                   const Device<float>& bias, int blocks) {
  List list(blocks);
  std::vector<int> made(calls, -1), summed(calls, -1);  // h of a call; its sums
  const auto topk = [&](int i, int waits) {
    if (before) return;
    const PairCall& call = copies[i % copies.size()];
    list.add(Op::kTopk, waits, kRows).topk = chooser(call.pair->topk, *call.set, bias, buffers.choice(i), PairBuffers::uses(i));
  };
  const auto choice = [&](int i) -> const Choice* { return before ? copies[i % copies.size()].set->choice.get() : buffers.choice(i); };
  const auto choice_uses = [&](int i) { return before ? use(0) : PairBuffers::uses(i); };
  const auto up = [&](int i, int waits) {
    ExpertsUpArgs& args = list.add(Op::kExpertsUp, waits).up;
    args = copies[i % copies.size()].pair->up;
    args.choice = choice(i);
    args.uses = choice_uses(i);
    args.codes = x.codes.get();
    args.scales = x.scales.get();
    args.norm = kNoNorm;
    args.h = buffers.h(i);
    args.pieces = buffers.pieces(i);
    args.pieces_uses = PairBuffers::uses(i);
    args.mixture_layer = 0;
    made[i] = list.last();
  };
  const auto down = [&](int i) {
    ExpertsDownArgs& args = list.add(Op::kExpertsDown, made[i]).down;
    args = copies[i % copies.size()].pair->down;
    args.choice = choice(i);
    args.choice_uses = choice_uses(i);
    args.h = buffers.h(i);
    args.parts = sums.parts(i);
    args.uses = Sums::uses(i);
  };
  if (chain) {
    for (int i = 0; i < calls; ++i) {
      const int before = i > 0 ? summed[i - 1] : -1;
      topk(i, before);
      up(i, before);
      down(i);
      summed[i] = sums.add_to(list, i);
    }
    return list.finish();
  }
  // Where choices are made within, the next one is as soon as nobody reads the one before it as a list of ids any more: behind `up`.
  topk(0, -1);
  up(0, -1);
  for (int i = 0; i < calls; ++i) {
    if (i + 1 < calls) topk(i + 1, made[i]);
    if (i > 0) sums.add_in_turn(list, i - 1, summed);
    down(i);
    if (i + 1 < calls) up(i + 1, -1);  // `down` of call i, before it, waited until all blocks had left `down` of call i - 1, which read the same h
  }
  sums.add_in_turn(list, calls - 1, summed);
  return list.finish();
}

// Whether a stream of calls of so many experts each may find all choices made. Nothing but its ring keeps a fetching warp from running ahead then, and one that lists the experts of two calls before its
// block has looked at the first list loses the second one (`experts_full` has two phases). With more pages in each block's share of `up` than the ring has, a call's experts are listed when the
// block is at work on `up` of the call before. The list itself may be written while the other is read: sets have equally many experts and none in common.
bool choices_fit(const ExpertsUpArgs& up, int count, int blocks) {
  const int tiles = count * up.tiles, rounds = tiles / blocks;
  return ((tiles - rounds * blocks) * up.segments / blocks + rounds * up.segments) * up.pages_per_segment > kPages;
}

// h as the device has it, [rank][live row][channel], and whether each value is the double one rounded to E4M3.
std::vector<std::vector<std::vector<double>>> check_inner(const PairCall& call, const StepInputs& x, const std::vector<uint8_t>& h, int live) {
  const ChosenSet& set = *call.set;
  const int count = static_cast<int>(set.ids.size());
  std::vector<std::vector<std::vector<double>>> values(count, std::vector<std::vector<double>>(live, std::vector<double>(kExpertWidth)));
  for (int rank = 0; rank < count; ++rank) {
    const bool sampled = rank == 0 || rank == count - 1;
    for (int k = 0; k < kExpertWidth; ++k) {
      const uint8_t* slice = h.data() + (static_cast<size_t>(k / kDownK) * kMaxStepExperts + rank) * kDownInputBytes;
      const std::vector<Sum> want = sampled && k % 16 == 5 ? expert_inner(call.pair->layer, set.ids[rank], k, x.e4m3) : std::vector<Sum>{};
      for (int row = 0; row < live; ++row) {
        float scale;
        std::memcpy(&scale, slice + kDownK * kRows + (static_cast<size_t>(k % kDownK / kUpperHalf) * kRows + row) * 4, 4);
        scale /= code_unit(Storage::kMxfp4);
        const double value = static_cast<double>(e4m3_to_float(slice[down_input_offset(row, k % kDownK)])) * scale;
        values[rank][row][k] = value;
        if (want.empty()) continue;
        // Half a unit in the last of three bits, or half the smallest step; and what the sums behind it may be off by.
        const double weight = set.weights[row][rank], exact = want[row].value * weight;
        const double slack = std::abs(exact) * (0x1p-4 + 0x1p-10) + 0x1p-10 * scale + kBound * want[row].magnitude * weight;
        if (!(std::abs(value - exact) <= slack))
          throw KernelFault("expert-pair: h of expert " + std::to_string(set.ids[rank]) + " is " + std::to_string(value) + ", not " + std::to_string(exact), 0);
      }
    }
  }
  return values;
}

void measure_pairs(const std::vector<Pair>& pairs, Runner& runner, std::vector<Operation>& out) {
  const int hidden_tiles = kHidden / kTileRows;
  Tiling tiling{};
  tiling.tiles = hidden_tiles, tiling.slices = pairs[0].down.units / hidden_tiles, tiling.most = 1;
  Sums sums(tiling, kHidden);
  PairBuffers buffers(runner.blocks());
  const Device<float> bias(static_cast<size_t>(kMaxExperts));
  const uint64_t expert_bytes = uint64_t{3} * kExpertWidth * kHidden / 2 + uint64_t{3} * kExpertWidth * kHidden / 32;
  const std::pair<int, int> cases[] = {{1, 8}, {2, 16}, {4, 32}, {8, 8}, {8, 24}, {8, 40}, {8, 60}};
  for (const auto& [live, count] : cases) {
    const StepInputs x = make_inputs(live, kHidden);
    const int sets = kExperts / count;
    std::vector<ChosenSet> chosen;
    for (int s = 0; s < sets; ++s) chosen.push_back(choose(pairs[0].topk, live, count, s, sets));
    std::vector<PairCall> copies;
    make_choices(chosen, pairs[0].topk, bias, runner, live);
    for (const Pair& pair : pairs)
      for (const ChosenSet& set : chosen) copies.push_back({&pair, &set});
    Operation op;
    op.op = "expert-pair", op.weights = "mxfp4", op.experts = count, op.live_rows = live;
    op.bytes = count * expert_bytes;
    op.copies = static_cast<int>(copies.size());
    op.bound = kBound;
    const auto clear = [&] {
      sums.clear();
      buffers.clear();
    };
    std::vector<float> alone;
    for (const size_t copy : {size_t{0}, copies.size() - 1}) {
      clear();
      runner.set(pair_list({copies[copy]}, 1, true, false, x, sums, buffers, bias, runner.blocks()), live);
      runner.run();
      alone = sums.read(0);
      const auto h = check_inner(copies[copy], x, buffers.read_h(), live);
      for (int i = 0; i < kSampledRows; ++i) {
        const int row = i * (kHidden - 1) / (kSampledRows - 1);
        std::vector<Sum> want(live);
        for (int rank = 0; rank < count; ++rank) {
          for (int k = 0; k < kExpertWidth; ++k) {
            const double w = expert_down(copies[copy].pair->layer, copies[copy].set->ids[rank], row, k);
            for (int r = 0; r < live; ++r) want[r].add(w * h[rank][r][k]);
          }
        }
        for (int r = 0; r < live; ++r) compare(op, alone[static_cast<size_t>(r) * kHidden + row], want[r]);
      }
    }
    refuse_wrong(op);
    for (const bool chain : {false, true}) {
      const bool before = !chain && choices_fit(pairs[0].up, count, runner.blocks());
      Operation timed = op;
      timed.arrangement = chain ? "chain" : "stream";
      timed.choice = before ? "before" : "within";
      time_calls(
          timed, runner, sums, alone, [&](int calls) { return pair_list(copies, calls, chain, before, x, sums, buffers, bias, runner.blocks()); }, clear);
      out.push_back(std::move(timed));
    }
  }
}

// --- from the real list

// The products of a model's verify part, by layer as the list has them.
struct Products {
  std::vector<LinearArgs> linears;
  std::vector<Pair> pairs;
};

Products products_of(const Model& model) {
  const Caches caches = model.make_caches();
  int verify = 0;
  const std::vector<Instruction> list = model.instructions(caches, verify);
  Products out;
  TopkArgs topk{};
  ExpertsUpArgs up{};
  for (size_t i = static_cast<size_t>(verify); i < list.size(); ++i) {
    const Instruction& ins = list[i];
    if (ins.op == Op::kLinear) out.linears.push_back(ins.linear);
    if (ins.op == Op::kTopk) topk = ins.topk;
    if (ins.op == Op::kExpertsUp) up = ins.up;
    if (ins.op == Op::kExpertsDown) out.pairs.push_back({static_cast<int>(ins.layer), topk, up, ins.down});
  }
  return out;
}

// Every `stride`-th linear of the layers, from `first` on.
Matrices take(const Products& from, const char* op, const char* weights, Tensor tensor, Stored stored, int rows, int k, int first, int stride, int layers) {
  Matrices m{op, weights, tensor, stored, rows, k, {}, {}};
  const int tiles = (rows + kTileRows - 1) / kTileRows * (stored == Stored::kF32 ? 2 : 1);
  for (int l = 0; l < layers; ++l) {
    const LinearArgs& args = from.linears.at(static_cast<size_t>(first) + static_cast<size_t>(l) * stride);
    if (args.tiling.tiles != tiles) throw std::logic_error("the list of instructions has other linears than the bench expects");
    m.copies.push_back(args);
    m.layers.push_back(l);
  }
  return m;
}

}  // namespace

std::vector<Operation> measure_operations(int device) {
  std::vector<Operation> out;
  {
    Model model(device, 0);
    model.load(bench_shape(kDenseLayers, false), nullptr, *bench_source(false));
    const Products found = products_of(model);
    Runner runner(model.blocks);
    const auto measure = [&](const char* op, Tensor tensor, int rows, int k, int first) {
      measure_linear(take(found, op, "fp8", tensor, Stored::kE4m3, rows, k, first, 4, kDenseLayers), runner, out);
    };
    measure("qkv", Tensor::kQkv, kQkvRows, kHidden, 0);
    measure("o", Tensor::kO, kHidden, kOInputs, 1);
    measure("dense-up", Tensor::kGate, 2 * kDenseWidth, kHidden, 2);
    measure("dense-down", Tensor::kDown, kHidden, kDenseWidth, 3);
  }
  Model model(device, 0);
  model.load(bench_shape(kMixtureLayers, true), nullptr, *bench_source(true));
  const Products found = products_of(model);
  Runner runner(model.blocks);
  measure_linear(take(found, "o", "bf16", Tensor::kO, Stored::kBf16, kHidden, kOInputs, 1, 3, kMixtureLayers), runner, out);
  measure_linear(take(found, "router", "f32", Tensor::kRouter, Stored::kF32, kExperts, kHidden, 2, 3, kMixtureLayers), runner, out);
  measure_linear(take(found, "head", "bf16", Tensor::kHead, Stored::kBf16, kVocab, kHidden, 3 * kMixtureLayers, 1, 1), runner, out);
  measure_pairs({found.pairs.begin(), found.pairs.begin() + 2}, runner, out);
  return out;
}

std::string operations_json(const std::vector<Operation>& operations) {
  Json json;
  json.list();
  for (const Operation& o : operations) {
    json.begin().string("op", o.op).string("weights", o.weights);
    const auto optional = [&](const char* name, int value) { value > 0 ? json.number(name, value) : json.null(name); };
    optional("rows", o.rows);
    optional("k", o.k);
    optional("experts", o.experts);
    json.number("m", o.live_rows).string("arrangement", o.arrangement);
    o.choice.empty() ? json.null("choice") : json.string("choice", o.choice);
    json.number("bytes", o.bytes).number("copies", o.copies).number("calls", o.calls);
    json.numbers("spanUs", o.span_us);
    json.begin("check").number("values", o.values).number("error", o.error).number("bound", o.bound).end().end();
  }
  return json.end_list().text();
}

}  // namespace kilotoken::bench
