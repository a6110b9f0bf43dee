// The expert pair of one layer on a GPU, MXFP4 and E4M3, against double precision on the host: h behind its rounding to E4M3, and the sums of the down
// projection from that very h. Random routing, 1, 3 and 8 rows; every row also alone, where it must have the same bits. Grids of several sizes, so that a block
// has one, two or three units of the down projection at a time. The list of instructions is made by hand: no router, no attention.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"
#include "core/e2m1.h"
#include "core/e4m3.h"
#include "core/e8m0.h"
#include "core/mxfp4.h"
#include "kernels/model.h"
#include "kernels/synthetic/source.h"
#include "no_gpu.h"

using namespace kilotoken;
using namespace kilotoken::stack;

namespace {

constexpr uint64_t kSeed = 5;
constexpr int kLayer = 1;  // the first mixture
constexpr uint32_t kMark = 0x80000000u;  // of a choice's first use

// A sum of products by blocks of 32, with what its computation may lose: the tensor core aligns the 32 products of a block and drops what lies 2^-10 below the
// largest (measured on an H200, kernels/ptx/wgmma.cuh); binary32 rounds at most twice a block.
struct Sum {
  double value = 0, magnitude = 0, largest = 0, dropped = 0;
  int terms = 0;
  void add(double term) {
    value += term, magnitude += std::abs(term);
    largest = std::max(largest, std::abs(term));
    if (++terms % 32 == 0) dropped += largest, largest = 0;
  }
  double bound() const { return 0x1p-10 * dropped + (terms / 16 + 8) * 0x1p-24 * magnitude; }
};

// One tensor of all experts, read back from the formula that made it on the device.
class Weights {
 public:
  Weights(const SyntheticShape& shape, SyntheticPart codes, SyntheticPart scales)
      : fp8_(shape.fp8_experts), codes_(synthetic_tensor(shape, {}, kLayer, codes)), scales_(synthetic_tensor(shape, {}, kLayer, scales)) {}

  std::vector<double> row(int expert, int row) const {
    const uint64_t at = static_cast<uint64_t>(expert) * codes_.rows + row;
    const uint64_t scale_row = fp8_ ? static_cast<uint64_t>(expert) * scales_.rows + row / 128 : at;
    std::vector<uint8_t> codes(codes_.bytes), scales(scales_.bytes);
    synthetic_rows(kSeed, codes_, at, 1, codes.data());
    synthetic_rows(kSeed, scales_, scale_row, 1, scales.data());
    std::vector<double> out(fp8_ ? codes.size() : codes.size() * 2);
    for (size_t k = 0; k < out.size(); ++k) {
      float scale;
      if (fp8_) std::memcpy(&scale, scales.data() + k / 128 * 4, 4);
      else scale = e8m0_to_float(scales[k / 32]);
      out[k] = static_cast<double>(fp8_ ? e4m3_to_float(codes[k]) : e2m1_to_float(mxfp4_nibble(codes.data(), static_cast<int>(k)))) * scale;
    }
    return out;
  }

 private:
  bool fp8_;
  SyntheticTensor codes_, scales_;
};

// What one row of a step brings.
struct Row {
  std::vector<uint8_t> codes;
  std::vector<float> scales, squares;  // by 128 of k
  std::vector<int> experts;
  std::vector<float> weights;
};

Row make_row(const SyntheticShape& shape, std::mt19937& random) {
  Row row;
  std::uniform_real_distribution<float> unit(0.5f, 1.5f);
  for (uint32_t k = 0; k < shape.hidden; ++k) row.codes.push_back(static_cast<uint8_t>((random() & 0x80u) | (0x60u + random() % 0x1fu)));  // up to 448
  for (uint32_t g = 0; g < shape.hidden / kQuantGroup; ++g) row.scales.push_back(0x1p-8f * unit(random)), row.squares.push_back(128.0f * unit(random));
  std::vector<int> ids(shape.experts);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), random);
  row.experts.assign(ids.begin(), ids.begin() + shape.experts_per_token);
  float total = 0;
  for (uint32_t n = 0; n < shape.experts_per_token; ++n) row.weights.push_back(unit(random)), total += row.weights.back();
  for (float& w : row.weights) w /= total;
  return row;
}

struct Result {
  std::vector<uint8_t> h;
  std::vector<float> sums;  // [8][hidden]
};

// One layer's pair on a grid, and a list of three instructions around it.
class Pair {
 public:
  Pair(const SyntheticShape& shape, int blocks) : shape_(shape), model_(0, blocks) {
    const auto source = synthetic_source(kSeed, shape, {});
    model_.load(synthetic_target(shape, {}, 64), nullptr, *source);
    const Caches caches = model_.make_caches();
    int verify = 0;
    for (const Instruction& ins : model_.instructions(caches, verify)) {
      if (ins.op == Op::kExpertsUp) list_[0] = ins;
      if (ins.op == Op::kExpertsDown) list_[1] = ins;
    }
    const ExpertsDownArgs& down = list_[1].down;
    codes_ = Device<uint8_t>(static_cast<size_t>(kRows) * shape.hidden);
    scales_ = Device<float>(static_cast<size_t>(kRows) * (shape.hidden / kQuantGroup));
    squares_ = Device<float>(scales_.size());
    choice_ = Device<Choice>(1);
    h_ = Device<uint8_t>(static_cast<size_t>(shape.expert_width / kDownK) * kMaxStepExperts * kDownInputBytes);
    parts_ = Device<float>(static_cast<size_t>(down.units) * kPartFloats);
    pieces_ = Device<float>(static_cast<size_t>(model_.blocks) * kMostCut * kPartFloats);
    state_ = Device<SessionState>(1);
    tokens_ = Device<int32_t>(64);
    epoch_ = Device<Epoch>(1);
    check(cudaHostAlloc(reinterpret_cast<void**>(&mailbox_), sizeof(Mailbox), cudaHostAllocMapped), "pinned memory");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
    ExpertsUpArgs& up = list_[0].up;
    up.choice = choice_.get(), up.uses = 0, up.codes = codes_.get(), up.scales = scales_.get(), up.h = h_.get(), up.pieces = pieces_.get(), up.pieces_uses = 0, up.mixture_layer = 0;
    up.norm = {squares_.get(), static_cast<int>(shape.hidden / kQuantGroup), static_cast<float>(shape.hidden), 1e-5f};
    list_[1].down.choice = choice_.get(), list_[1].down.choice_uses = 0, list_[1].down.h = h_.get(), list_[1].down.parts = parts_.get(), list_[1].down.uses = 0;
    list_[0].waits = -1, list_[0].arrivals = 0;
    list_[1].waits = 0, list_[1].arrivals = static_cast<uint32_t>(list_[0].workers);
    std::memset(&list_[2], 0, sizeof list_[2]);
    list_[2].op = Op::kAccept, list_[2].waits = 0, list_[2].arrivals = list_[1].arrivals, list_[2].workers = 1;
    device_list_ = DeviceList(std::vector<Instruction>(list_.begin(), list_.end()));
  }
  ~Pair() {
    cudaStreamDestroy(stream_);
    cudaFreeHost(mailbox_);
  }
  Pair(const Pair&) = delete;

  int units_per_pass() const { return list_[1].down.units_per_pass; }
  int passes() const { return list_[1].down.passes; }
  int blocks() const { return model_.blocks; }

  // alone: a launch for each of the two instructions.
  Result run(const std::vector<Row>& rows, bool alone) {
    const int live = static_cast<int>(rows.size()), groups = static_cast<int>(shape_.hidden) / kQuantGroup;
    std::vector<uint8_t> codes(codes_.size());
    std::vector<float> scales(scales_.size(), 1.0f), squares(squares_.size(), 128.0f);
    std::vector<Choice> choice(1);
    std::memset(choice.data(), 0, sizeof(Choice));
    for (auto& words : choice[0].masks)
      for (uint32_t& word : words) word = kMark;
    for (int r = 0; r < live; ++r) {
      for (int k = 0; k < static_cast<int>(shape_.hidden); ++k) codes[e4m3_input_offset(r, k)] = rows[r].codes[k];
      for (int g = 0; g < groups; ++g) scales[g * kRows + r] = rows[r].scales[g], squares[g * kRows + r] = rows[r].squares[g];
      for (size_t n = 0; n < rows[r].experts.size(); ++n) {
        const int id = rows[r].experts[n];
        choice[0].masks[r][id / 16] |= 1u << id % 16;
        uint32_t bits;
        std::memcpy(&bits, &rows[r].weights[n], 4);
        choice[0].experts[r][n] = make_uint2(kMark | static_cast<uint32_t>(id), kMark | bits);
      }
    }
    copy_in(codes_.get(), codes.data(), codes_.bytes(), "inputs");
    copy_in(scales_.get(), scales.data(), scales_.bytes(), "inputs");
    copy_in(squares_.get(), squares.data(), squares_.bytes(), "inputs");
    copy_in(choice_.get(), choice.data(), choice_.bytes(), "the choice");
    check(cudaMemset(parts_.get(), 0, parts_.bytes()), "parts");
    check(cudaMemset(pieces_.get(), 0, pieces_.bytes()), "pieces");
    check(cudaMemset(h_.get(), 0xff, h_.bytes()), "h");
    SessionState s{};
    s.block_size = 1;
    s.max_context = 64;
    s.max_tokens = 1;
    s.prompt_length = s.length = s.rows = static_cast<uint32_t>(live);
    s.tokens = tokens_.get();
    s.phase = Phase::kPrefill;
    copy_in(state_.get(), &s, sizeof s, "the sequence");
    std::memset(static_cast<void*>(mailbox_), 0, sizeof(Mailbox));
    Program program{};
    device_list_.give(program);
    program.epoch = epoch_.get();
    if (alone) {
      for (int i = 0; i < 2; ++i) check(launch_instruction(program, i, state_.get(), mailbox_, model_.blocks, stream_), "a launch");
    } else {
      check(launch_resident(program, state_.get(), mailbox_, 1, model_.blocks, stream_), "a launch");
    }
    const cudaError_t status = cudaStreamSynchronize(stream_);
    if (mailbox_->fault.code != 0)
      throw KernelFault("wait " + std::to_string(mailbox_->fault.code) + " ran out in block " + std::to_string(mailbox_->fault.block) + ", instruction " +
                            std::to_string(mailbox_->fault.detail), mailbox_->fault.code);
    check(status, "the kernel");
    Result out;
    out.h.resize(h_.size());
    check(cudaMemcpy(out.h.data(), h_.get(), h_.bytes(), cudaMemcpyDeviceToHost), "h");
    std::vector<float> parts(parts_.size());
    check(cudaMemcpy(parts.data(), parts_.get(), parts_.bytes(), cudaMemcpyDeviceToHost), "parts");
    const int tiles = list_[1].down.tiles, slices = list_[1].down.units / tiles;
    out.sums.assign(static_cast<size_t>(kRows) * shape_.hidden, 0.0f);
    for (int slice = 0; slice < slices; ++slice) {
      for (int tile = 0; tile < tiles; ++tile) {
        for (int i = 0; i < kPartFloats; ++i) {
          uint32_t bits;
          std::memcpy(&bits, &parts[static_cast<size_t>(slice * tiles + tile) * kPartFloats + i], 4);
          if (!tally::that((bits & 1u) == 1, "a part without its mark: unit %d, place %d", slice * tiles + tile, i)) return out;
          bits &= ~1u;
          float x;
          std::memcpy(&x, &bits, 4);
          out.sums[static_cast<size_t>(i / kTileRows) * shape_.hidden + tile * kTileRows + i % kTileRows] += x;
        }
      }
    }
    return out;
  }

 private:
  SyntheticShape shape_;
  Model model_;
  std::array<Instruction, 3> list_{};
  Device<uint8_t> codes_, h_;
  Device<float> scales_, squares_, parts_, pieces_;
  Device<Choice> choice_;
  Device<SessionState> state_;
  Device<int32_t> tokens_;
  Device<Epoch> epoch_;
  DeviceList device_list_;
  Mailbox* mailbox_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

struct Worst {
  double h = 0, sum = 0;  // of the bound
};

void check_rows(const SyntheticShape& shape, const std::vector<Row>& rows, const Result& got, const char* what, Worst& worst) {
  const Weights gate(shape, SyntheticPart::kGate, SyntheticPart::kGateScale), up(shape, SyntheticPart::kUp, SyntheticPart::kUpScale),
      down(shape, SyntheticPart::kDown, SyntheticPart::kDownScale);
  const int live = static_cast<int>(rows.size()), hidden = static_cast<int>(shape.hidden), width = static_cast<int>(shape.expert_width);
  const double unit = shape.fp8_experts ? 1 : 64;
  std::vector<int> ids;
  for (const Row& r : rows) ids.insert(ids.end(), r.experts.begin(), r.experts.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  std::vector<double> factor;
  for (const Row& r : rows) {
    double sum = 0;
    for (const float s : r.squares) sum += s;
    factor.push_back(1 / std::sqrt(sum / hidden + 1e-5f));
  }
  // h as the device has it, [rank][row][channel], times the router's weight.
  std::vector<std::vector<std::vector<double>>> h(ids.size(), std::vector<std::vector<double>>(live, std::vector<double>(width)));
  for (size_t rank = 0; rank < ids.size(); ++rank) {
    for (int channel = 0; channel < width; ++channel) {
      const uint8_t* slice = got.h.data() + (static_cast<size_t>(channel / kDownK) * kMaxStepExperts + rank) * kDownInputBytes;
      const bool sampled = (channel + static_cast<int>(rank)) % 7 == 0;
      const std::vector<double> g = sampled ? gate.row(ids[rank], channel) : std::vector<double>{}, u = sampled ? up.row(ids[rank], channel) : std::vector<double>{};
      for (int r = 0; r < live; ++r) {
        float scale;
        std::memcpy(&scale, slice + kDownK * kRows + (static_cast<size_t>(channel % kDownK / kUpperHalf) * kRows + r) * 4, 4);
        const double value = h[rank][r][channel] = static_cast<double>(e4m3_to_float(slice[down_input_offset(r, channel % kDownK)])) * scale / unit;
        const auto place = std::find(rows[r].experts.begin(), rows[r].experts.end(), ids[rank]);
        if (place == rows[r].experts.end()) {
          tally::that(value == 0, "%s: row %d has %g of expert %d, which it did not choose", what, r, value, ids[rank]);
          continue;
        }
        if (!sampled) continue;
        Sum a, b;
        for (int k = 0; k < hidden; ++k) {
          const double x = static_cast<double>(e4m3_to_float(rows[r].codes[k])) * rows[r].scales[k / kQuantGroup];
          a.add(g[k] * x), b.add(u[k] * x);
        }
        const double weight = rows[r].weights[static_cast<size_t>(place - rows[r].experts.begin())];
        const double x = a.value * factor[r], y = b.value * factor[r], off_x = a.bound() * factor[r], off_y = b.bound() * factor[r];
        const double silu = x / (1 + std::exp(-x)), want = silu * y * weight;
        constexpr double kSteepest = 1.1;  // of silu
        // What the sums may be off by; the functions of the GPU; half a unit in the last of three bits, or half the smallest step.
        const double slack = (kSteepest * off_x * (std::abs(y) + off_y) + std::abs(silu) * off_y) * weight + std::abs(want) * (std::abs(x) + 16) * 0x1p-21 +
                             std::abs(want) * 0x1p-4 + std::abs(static_cast<double>(scale)) / unit * 0x1p-10;
        worst.h = std::max(worst.h, std::abs(value - want) / slack);
        tally::that(std::abs(value - want) <= slack, "%s: row %d, expert %d, channel %d: h is %g, not %g (within %g)", what, r, ids[rank], channel, value, want, slack);
      }
    }
  }
  for (int row = 0; row < hidden; row += 5) {
    std::vector<Sum> want(live);
    for (size_t rank = 0; rank < ids.size(); ++rank) {
      const std::vector<double> w = down.row(ids[rank], row);
      for (int r = 0; r < live; ++r)
        for (int k = 0; k < width; ++k) want[r].add(w[k] * h[rank][r][k]);
    }
    for (int r = 0; r < live; ++r) {
      const double value = got.sums[static_cast<size_t>(r) * hidden + row], slack = want[r].bound() + 0x1p-22 * want[r].magnitude;  // and the mark's bit
      worst.sum = std::max(worst.sum, std::abs(value - want[r].value) / slack);
      tally::that(std::abs(value - want[r].value) <= slack, "%s: row %d, output %d is %g, not %g (within %g)", what, r, row, value, want[r].value, slack);
    }
  }
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (kilotoken::tally::no_gpu()) return 3;
  try {
    for (const bool fp8 : {false, true}) {
      for (const uint32_t hidden : {1536u, 768u}) {
        SyntheticShape shape;
        shape.layers = 2, shape.hidden = hidden, shape.q_heads = 8, shape.kv_heads = 8, shape.experts = 24, shape.experts_per_token = 4, shape.expert_width = 256;
        shape.dense_width = 512, shape.vocab = 512, shape.fp8_experts = fp8;
        for (const int blocks : {0, 48, 32, 16}) {
          Pair pair(shape, blocks);
          std::mt19937 random(hidden + static_cast<uint32_t>(blocks));
          std::vector<Row> rows;
          for (int r = 0; r < kRows; ++r) rows.push_back(make_row(shape, random));
          char what[96];
          Worst worst;
          Result eight;
          for (const int live : {1, 3, 8}) {
            const std::vector<Row> some(rows.begin(), rows.begin() + live);
            std::snprintf(what, sizeof what, "%s, hidden %u, %d blocks, %d rows", fp8 ? "E4M3" : "MXFP4", hidden, pair.blocks(), live);
            const Result got = pair.run(some, false), again = pair.run(some, true);
            check_rows(shape, some, got, what, worst);
            tally::that(std::memcmp(got.sums.data(), again.sums.data(), got.sums.size() * 4) == 0, "%s: launched alone, the instructions give other bits", what);
            if (live == kRows) eight = got;
          }
          for (int r = 0; r < kRows; ++r) {
            const Result got = pair.run({rows[r]}, false);
            tally::that(std::memcmp(got.sums.data(), eight.sums.data() + static_cast<size_t>(r) * hidden, hidden * 4) == 0, "%s: row %d has other bits alone", what, r);
          }
          std::printf("%-5s hidden %4u, %3d blocks, %d x %d units a block: h within %.2f of its bound, sums within %.2f\n", fp8 ? "E4M3" : "MXFP4", hidden,
                      pair.blocks(), pair.passes(), pair.units_per_pass(), worst.h, worst.sum);
        }
      }
    }
  } catch (const std::exception& error) {
    tally::that(false, "%s", error.what());
  }
  return tally::finish("stack experts");
}
