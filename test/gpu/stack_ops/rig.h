// What the tests of single operations of the stack share: memory between guards of NaN, a rig that launches one instruction on buffers made by hand, parts that
// carry their marks, and mistakes in the expectations that each comparison must notice.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../check.h"
#include "core/bf16.h"
#include "core/e4m3.h"
#include "kernels/device_memory.h"
#include "kernels/model.h"

namespace kilotoken::ops {

using namespace stack;

inline std::string broken;  // the mistake in force, "operation.what"; empty: none
inline bool breaks(const char* name) { return broken == name; }
inline bool small = false;  // fewer cases: for runs under compute-sanitizer

inline std::mt19937 generator(20261121);

inline int below(int n) { return static_cast<int>(generator() % static_cast<uint32_t>(n)); }
inline std::vector<float> normals(size_t count, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> v(count);
  for (float& x : v) x = normal(generator);
  return v;
}

// (1 + 2^-24)^n - 1 is below it: of n rounded steps (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1).
inline double gamma(double steps) { return steps * 0x1p-24 / (1.0 - steps * 0x1p-24); }

// Device memory between two guards of 0xff, which must stay as they are; itself 0xff (a NaN in every format here) until written.
template <class T>
class Guarded {
 public:
  static constexpr size_t kGuard = 4096;  // bytes
  Guarded() = default;
  explicit Guarded(size_t count, int byte = 0xff) : count_(count), memory_(count * sizeof(T) + 2 * kGuard) {
    check(cudaMemset(memory_.get(), 0xff, memory_.bytes()), "poisoning");
    fill(byte);
  }
  explicit Guarded(const std::vector<T>& from) : Guarded(from.size()) { write(from); }

  T* get() const { return count_ == 0 ? nullptr : reinterpret_cast<T*>(memory_.get() + kGuard); }
  size_t size() const { return count_; }
  void fill(int byte) const {
    check(cudaMemset(get(), byte, count_ * sizeof(T)), "filling");
    check(cudaStreamSynchronize(nullptr), "filling");
  }
  void write(const std::vector<T>& from) const { copy_in(get(), from.data(), count_ * sizeof(T), "copying"); }
  std::vector<T> read(const char* what) const {
    std::vector<uint8_t> all(memory_.bytes());
    check(cudaMemcpy(all.data(), memory_.get(), all.size(), cudaMemcpyDeviceToHost), "copying");
    bool whole = true;
    for (size_t i = 0; i < kGuard; ++i) whole = whole && all[i] == 0xff && all[all.size() - 1 - i] == 0xff;
    tally::that(whole, "%s: written outside the buffer", what);
    std::vector<T> out(count_);
    std::memcpy(out.data(), all.data() + kGuard, count_ * sizeof(T));
    return out;
  }

 private:
  size_t count_ = 0;
  Device<uint8_t> memory_;
};

inline bool same_bits(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }
template <class T>
bool same_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// |got - expected| <= bound, element by element; the largest share of a bound is printed with the operation.
class Worst {
 public:
  explicit Worst(const char* what) : what_(what) {}
  void look(const char* of, size_t i, double got, double expected, double bound) {
    const double error = std::fabs(got - expected);
    ++count_;
    if (!(error <= bound)) tally::that(false, "%s, %s: element %zu is %.9g, expected %.9g within %.3g", what_, of, i, got, expected, bound);
    if (bound > 0 && error / bound > share_) share_ = error / bound;
  }
  ~Worst() {
    tally::passed += 1;
    if (broken.empty()) std::printf("%-28s %10zu elements, largest error %.3f of its bound\n", what_, count_, share_);
  }

 private:
  const char* what_;
  size_t count_ = 0;
  double share_ = 0;
};

// One instruction on one step, alone; or a list on the resident kernel.
class Rig {
 public:
  explicit Rig(int grid) : blocks(grid), state_(1), epoch_(1) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
    check(cudaHostAlloc(reinterpret_cast<void**>(&mailbox), sizeof(Mailbox), cudaHostAllocMapped), "pinned memory");
    std::memset(static_cast<void*>(mailbox), 0, sizeof(Mailbox));
    session.block_size = 1;
    session.max_context = 4096;
    session.max_tokens = 4096;
    session.phase = Phase::kPrefill;
    program.epoch = epoch_.get();
  }
  ~Rig() {
    cudaFreeHost(mailbox);
    cudaStreamDestroy(stream_);
  }
  Rig(const Rig&) = delete;

  void step(int start, int rows) {
    session.start = static_cast<uint32_t>(start);
    session.rows = static_cast<uint32_t>(rows);
  }
  // The operation alone, by `workers` blocks (0: all). Afterwards `session` is what the device made of it.
  void run(Instruction ins, int workers = 0) {
    ins.waits = -1;
    ins.workers = workers > 0 ? workers : blocks;
    set({ins});
    check(launch_instruction(program, 0, state_.get(), mailbox, blocks, stream_), "a launch");
    finish();
  }
  void run_resident(const std::vector<Instruction>& list, int rounds) {
    set(list);
    check(launch_resident(program, state_.get(), mailbox, static_cast<uint32_t>(rounds), blocks, stream_), "a launch");
    finish();
  }
  void run_one_by_one(const std::vector<Instruction>& list) {
    set(list);
    for (int i = 0; i < program.count; ++i) check(launch_instruction(program, i, state_.get(), mailbox, blocks, stream_), "a launch");
    finish();
  }
  void forget_uses() { check(cudaMemset(epoch_.get(), 0, sizeof(Epoch)), "uses"); }

  const int blocks;
  SessionState session{};
  Program program{};
  Mailbox* mailbox = nullptr;

 private:
  void set(const std::vector<Instruction>& list) {
    list_ = DeviceList(list);
    list_.give(program);
    copy_in(state_.get(), &session, sizeof session, "the sequence");
  }
  void finish() {
    const cudaError_t status = cudaStreamSynchronize(stream_);
    if (mailbox->fault.code != 0)
      throw KernelFault("fault " + std::to_string(mailbox->fault.code) + ", block " + std::to_string(mailbox->fault.block) + ", instruction " +
                            std::to_string(mailbox->fault.detail),
                        mailbox->fault.code);
    check(status, "the kernel");
    check(cudaMemcpy(&session, state_.get(), sizeof session, cudaMemcpyDeviceToHost), "the sequence");
  }

  Device<SessionState> state_;
  DeviceList list_;
  Device<Epoch> epoch_;
  cudaStream_t stream_ = nullptr;
};

inline Instruction instruction(Op op) {
  Instruction ins;
  std::memset(&ins, 0, sizeof ins);
  ins.op = op;
  return ins;
}

// --- what carries its own readiness. A list of one instruction: the n-th use of a buffer since it was zeroed, n = 0, 1, ...

inline Uses use(int n) { return static_cast<Uses>(n & 1); }
inline uint32_t mark(int n) { return (static_cast<uint32_t>(n) + 1) & 1u; }
inline float with_mark(float x, uint32_t bit) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = (bits & ~1u) | bit;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t mark_in(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits & 1u;
}

// Parts of a tiling, made by hand: normals, in rows >= `live` NaN. Places that belong to no piece are NaN without regard to marks.
class HandParts {
 public:
  HandParts(const Tiling& tiling, int live, float scale, int n)
      : tiling_(tiling), n_(n), values_(static_cast<size_t>(part_places(tiling)) * kPartFloats, std::nanf("")) {
    const std::vector<float> random = normals(values_.size(), scale);
    for (int unit = 0; unit < tiling.tiles * tiling.slices; ++unit) {
      const Pieces p = pieces_of(tiling, unit);
      for (int i = p.first; i < p.first + p.count; ++i)
        for (int j = 0; j < kPartFloats; ++j) {
          const size_t at = static_cast<size_t>(i) * kPartFloats + j;
          values_[at] = with_mark(j / kTileRows < live ? random[at] : std::nanf(""), mark(n));
        }
    }
    send();
  }
  // Sets the sum of an output row of the matrix for a row of the step: its first piece has it all.
  void put(int row, int output, float x) {
    const int tile = output / kTileRows;
    for (int s = 0; s < tiling_.slices; ++s) {
      const Pieces p = pieces_of(tiling_, s * tiling_.tiles + tile);
      for (int i = 0; i < p.count; ++i)
        values_[static_cast<size_t>(p.first + i) * kPartFloats + row * kTileRows + output % kTileRows] = with_mark(s == 0 && i == 0 ? x : 0.0f, mark(n_));
    }
  }
  void send() {
    if (device_.size() == 0) device_ = Guarded<float>(values_);
    else device_.write(values_);
  }
  struct Sum {
    double value, magnitude;  // of the terms
    int terms;
  };
  Sum sum(int row, int output) const {
    Sum out{0, 0, 0};
    for (int s = 0; s < tiling_.slices; ++s) {
      const Pieces p = pieces_of(tiling_, s * tiling_.tiles + output / kTileRows);
      for (int i = p.first; i < p.first + p.count; ++i) {
        const double x = with_mark(values_[static_cast<size_t>(i) * kPartFloats + row * kTileRows + output % kTileRows], 0);
        out.value += x, out.magnitude += std::fabs(x), ++out.terms;
      }
    }
    return out;
  }
  Parts args() const { return {device_.get(), tiling_, use(n_)}; }

 private:
  Tiling tiling_;
  int n_;
  std::vector<float> values_;
  Guarded<float> device_;
};

// Sums of squares by hand; rows >= `live` NaN. The device's factor is within kFactor of the true one, relatively: six additions of positive terms, a division of
// two units, an addition, halved by the root, and two units of rsqrt: (6 + 4 + 1) / 2 + 4 roundings.
class HandNorm {
 public:
  static constexpr double kSteps = 10;
  HandNorm(int groups, int live, float epsilon, double mean = 1.0) : groups_(groups), epsilon_(epsilon), values_(static_cast<size_t>(groups) * kRows, std::nanf("")) {
    for (int g = 0; g < groups; ++g)
      for (int r = 0; r < kRows; ++r) {
        const float x = static_cast<float>(mean * kQuantGroup * (0.25 + below(1000) / 400.0) * (1 + r));
        if (r < live) values_[g * kRows + r] = x;
      }
    device_ = Guarded<float>(values_);
  }
  double factor(int row) const {
    double sum = 0;
    for (int g = 0; g < groups_; ++g) sum += values_[g * kRows + row];
    return 1.0 / std::sqrt(sum / (groups_ * kQuantGroup) + epsilon_);
  }
  Norm args() const { return {device_.get(), groups_, static_cast<float>(groups_ * kQuantGroup), epsilon_}; }

 private:
  int groups_;
  float epsilon_;
  std::vector<float> values_;
  Guarded<float> device_;
};

// --- inputs of a following linear, as an operation leaves them

// Half the distance of two neighbours of E4M3 at magnitude q.
inline double e4m3_half_step(double q) {
  q = std::fmax(std::fabs(q), 0x1p-6);
  return std::exp2(std::floor(std::log2(q)) - 4);
}
inline double bf16_half_step(double x) {
  x = std::fmax(std::fabs(x), 0x1p-126);
  return std::exp2(std::floor(std::log2(x)) - 8);
}

class InputsOut {
 public:
  explicit InputsOut(int k)
      : k(k), codes_(static_cast<size_t>(k) * kRows), scales_(static_cast<size_t>(k) / kQuantGroup * kRows), high_(static_cast<size_t>(k) * kRows),
        low_(static_cast<size_t>(k) * kRows) {}
  Inputs args() const { return {codes_.get(), scales_.get(), high_.get(), low_.get()}; }
  struct Host {
    std::vector<uint8_t> codes;
    std::vector<float> scales;
    std::vector<uint16_t> high, low;
    int k;
    double split(int row, int at) const {
      return static_cast<double>(bf16_to_float(high[bf16_input_index(row, at)])) + bf16_to_float(low[bf16_input_index(row, at)]);
    }
    double coded(int row, int at) const {
      return static_cast<double>(e4m3_to_float(codes[e4m3_input_offset(row, at)])) * scales[static_cast<size_t>(at / kQuantGroup) * kRows + row];
    }
    // A row's bits in all four.
    std::vector<uint32_t> row(int r) const {
      std::vector<uint32_t> out;
      for (int at = 0; at < k; ++at) {
        uint32_t scale;
        std::memcpy(&scale, &scales[static_cast<size_t>(at / kQuantGroup) * kRows + r], 4);
        out.push_back(codes[e4m3_input_offset(r, at)]);
        out.push_back(scale);
        out.push_back(high[bf16_input_index(r, at)] | static_cast<uint32_t>(low[bf16_input_index(r, at)]) << 16);
      }
      return out;
    }
  };
  Host read(const char* what) const { return {codes_.read(what), scales_.read(what), high_.read(what), low_.read(what), k}; }
  const int k;

 private:
  Guarded<uint8_t> codes_;
  Guarded<float> scales_;
  Guarded<uint16_t> high_, low_;
};

// Both forms of a row of values. The two parts: within `bound` and the 2^-16 that they leave. Codes: |code scale - x| <= bound + scale (half a step at x / scale),
// 2^-20 of it for the approximate inverse; a group's scale: its largest magnitude / 448, two roundings.
inline void check_inputs(Worst& worst, const InputsOut::Host& got, int row, const std::vector<double>& expected, const std::vector<double>& bound) {
  for (int first = 0; first < got.k; first += kQuantGroup) {
    double amax = 0, slack = 0;
    for (int i = first; i < first + kQuantGroup; ++i) amax = std::fmax(amax, std::fabs(expected[i])), slack = std::fmax(slack, bound[i]);
    const double scale = got.scales[static_cast<size_t>(first / kQuantGroup) * kRows + row];
    if (amax == 0) worst.look("scale of zeros", first, scale, 1.0, 0);
    else worst.look("scale", first, scale, amax / 448, slack / 448 + amax / 448 * 0x1p-22);
    for (int i = first; i < first + kQuantGroup; ++i) {
      worst.look("two parts", i, got.split(row, i), expected[i], bound[i] + std::fabs(expected[i]) * 0x1p-16);
      worst.look("codes", i, got.coded(row, i), expected[i], bound[i] + scale * e4m3_half_step(expected[i] / scale) * (1 + 0x1p-10) + amax * 0x1p-20);
    }
  }
}

inline void same_rows(const char* what, const InputsOut::Host& a, const InputsOut::Host& b, int rows) {
  for (int r = 0; r < rows; ++r) tally::that(a.row(r) == b.row(r), "%s: row %d has other bits among %d rows", what, r, rows);
}

// --- the operations, each in a file of its own

void test_embed();
void test_reduce();
void test_swiglu();
void test_all_reduce();
void test_linear();
void test_qkv();
void test_window();
void test_attend();
void test_topk();
void test_experts_up();
void test_experts_down();
void test_logits();
void test_picks();
void test_accept();
void test_resident();

}  // namespace kilotoken::ops
