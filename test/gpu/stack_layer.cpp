// Layers of a pro-synthetic slice on the GPU against the model's definition in double on the CPU (stack_layer/layer.h): the last eight rows that go through the layers together,
// and one row behind them alone. Each branch from the device's own residual before it (so that what is rounded on the way is known exactly there), and the whole layer from the
// residual before it. Every element must lie within kDeviations standard deviations of its error, and the root of the mean square of a row's errors, each in units of its
// deviation, within kRowDeviations; how errors come about is in stack_layer/estimate.h. The router must choose the same experts, but where it is a near tie. Rows in
// company have the bits of rows alone.
//   stack_layer [small | rank | whole] ...   by default rank and whole; small: for a GPU in software, with one layer's attention made global
//   stack_layer --exact small                the same where tensor cores add products exactly, as those in software do: a sharper test
//   stack_layer --break all                  mistakes planted in the expectation, at the small shape: fails where one is not noticed
//   stack_layer --break MISTAKE [SHAPE]      one of them: must exit with 1
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/synthetic/source.h"
#include "no_gpu.h"
#include "stack_layer/layer.h"

using namespace kilotoken;
using namespace kilotoken::layer;

namespace {

constexpr uint64_t kSeed = 1;

struct Size {
  const char* name;
  SyntheticShard shard;
  int tokens;               // one more than a multiple of eight
  std::vector<int> layers;  // that are looked at: dense and global; a mixture behind a window; a mixture behind all positions
  bool published;           // else small
};

const std::vector<Size>& sizes() {
  static const std::vector<Size> all = {{"small", {1, 2}, 25, {0, 1, 2}, false}, {"rank", {3, 8}, 145, {0, 1, 7}, true}, {"whole", {0, 1}, 145, {0, 1, 7}, true}};
  return all;
}

SyntheticShape shape_of(const Size& size) {
  SyntheticShape s;
  s.layers = static_cast<uint32_t>(size.layers.back() + 1);
  if (size.published) return s;
  s.hidden = 512;
  s.q_heads = 8, s.kv_heads = 4;
  s.window = 16;
  s.experts = 24, s.experts_per_token = 4, s.expert_width = 256;
  s.dense_width = 512;
  s.vocab = 512;
  return s;
}

struct Subject {
  const Size& size;
  Network network;
  std::vector<int32_t> ids;
  stack::States states;
};

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Subject make(const Size& size) {
  const SyntheticShape shape = shape_of(size);
  Subject s{size, {kSeed, shape, size.shard, stack::synthetic_target(shape, size.shard, 256)}, {}, {}};
  if (!size.published) s.network.target.layers.back().attention = s.network.target.layers.front().attention;
  const double began = seconds();
  const auto source = stack::synthetic_source(kSeed, shape, size.shard);
  const auto stack = stack::Stack::make(0, s.network.target, nullptr, *source);
  for (int i = 0; i < size.tokens; ++i) s.ids.push_back((i * 7919 + 11) % s.network.target.vocab);
  const double loaded = seconds();
  s.states = stack->states(s.ids, 8);
  std::printf("%s, rank %u of %u: %d layers, %.2f GB of pages in %.1f s, %d rows in %.1f s\n", size.name, size.shard.rank, size.shard.of, static_cast<int>(shape.layers),
              static_cast<double>(stack->weight_bytes()) / 1e9, loaded - began, size.tokens, seconds() - loaded);
  // Alone: the rows behind a few, which is all that a GPU in software has the time for.
  std::vector<int32_t> some = s.ids;
  if (!size.published) some.resize(4);
  const stack::States alone = stack->states(some, 1);
  for (size_t i = 0; i < alone.residual.size(); ++i)
    tally::that(std::memcmp(alone.residual[i].data(), s.states.residual[i].data(), alone.residual[i].size() * sizeof(float)) == 0,
                "%s: residual %zu of rows alone has other bits than of eight rows", size.name, i);
  return s;
}

class Worst {
 public:
  Worst(const Subject& s, int layer, const char* part) : s_(s), layer_(layer), part_(part) {}
  void row(const float* got, const Rows& expected, int row) {
    double sum = 0;
    for (int i = 0; i < expected.width; ++i) {
      const double value = expected.value[expected.at(row, i)], deviation = std::sqrt(expected.variance[expected.at(row, i)]), away = std::fabs(got[i] - value) / deviation;
      if (!(away <= kDeviations)) tally::that(false, "%s, layer %d, %s: row %d, element %d is %.7g, expected %.7g give or take %.2g", s_.size.name, layer_, part_, row, i, got[i], value, kDeviations * deviation);
      largest_ = std::max(largest_, away);
      sum += away * away;
      squares_ += square(value), errors_ += square(got[i] - value), variances_ += square(deviation);
    }
    const double of_row = std::sqrt(sum / expected.width);
    tally::that(of_row <= kRowDeviations, "%s, layer %d, %s: row %d is %.3g deviations off on the whole", s_.size.name, layer_, part_, row, of_row);
    row_ = std::max(row_, of_row);
  }
  void print() const {
    if (broken.empty())
      std::printf("  layer %d, %-12s  off by %.1e of the residual (%.1e expected); largest error %.2f deviations, of a row %.2f\n", layer_, part_,
                  std::sqrt(errors_ / squares_), std::sqrt(variances_ / squares_), largest_, row_);
  }

 private:
  const Subject& s_;
  int layer_;
  const char* part_;
  double largest_ = 0, row_ = 0, squares_ = 0, errors_ = 0, variances_ = 0;
};

Rows exact(const std::vector<float>& from, int first, int count, int width) {
  Rows out(count, width);
  for (size_t i = 0; i < out.value.size(); ++i) out.value[i] = from[static_cast<size_t>(first) * width + i];
  return out;
}

void check_layer(const Subject& s, int layer) {
  constexpr int kChecked = 9;
  const int hidden = s.network.target.hidden, count = s.size.tokens, first = count - kChecked;
  const std::vector<float>&before = s.states.residual[static_cast<size_t>(2 * layer)], &middle = s.states.residual[static_cast<size_t>(2 * layer) + 1],
                     &after = s.states.residual[static_cast<size_t>(2 * layer) + 2];
  const auto row_of = [&](const std::vector<float>& x, int r) { return x.data() + static_cast<size_t>(first + r) * hidden; };
  const Rows attended = behind_attention(s.network, layer, exact(before, 0, count, hidden), first);
  // The feed-forward branch twice: from the device's residual, and from the reference's own.
  Rows both = exact(middle, first, kChecked, hidden);
  both.count *= 2;
  both.value.insert(both.value.end(), attended.value.begin(), attended.value.end());
  both.variance.insert(both.variance.end(), attended.variance.begin(), attended.variance.end());
  const std::vector<int32_t>& experts = s.states.experts[static_cast<size_t>(layer)];
  std::vector<int32_t> chosen;
  if (!experts.empty())
    for (int n = 0; n < 2; ++n) chosen.insert(chosen.end(), experts.end() - kChecked * s.network.target.experts_per_token, experts.end());
  std::vector<Routing> routing;
  const Rows fed = behind_feed_forward(s.network, layer, both, chosen.data(), routing);

  Worst attention(s, layer, "attention"), branch(s, layer, "feed-forward"), whole(s, layer, "whole");
  for (int r = 0; r < kChecked; ++r) {
    attention.row(row_of(middle, r), attended, r);
    branch.row(row_of(after, r), fed, r);
    whole.row(row_of(after, r), fed, kChecked + r);
  }
  for (const Worst* part : {&attention, &branch, &whole}) part->print();
  if (routing.empty()) return;
  const auto count_of = [&](int from, int Routing::*what) {
    int sum = 0;
    for (int r = from; r < from + kChecked; ++r) sum += routing[static_cast<size_t>(r)].*what;
    return sum;
  };
  for (const int from : {0, kChecked}) {
    const int differ = count_of(from, &Routing::differ);
    if (broken.empty())
      std::printf("  layer %d, router %s: %d of %d rows choose the same experts, %d differ in a near tie, %d otherwise\n", layer, from == 0 ? "of the device's residual" : "of the whole layer     ",
                  count_of(from, &Routing::agree), kChecked, count_of(from, &Routing::near_ties), differ);
    tally::that(differ == 0, "%s, layer %d: the router chooses other experts in %d rows that are no near tie", s.size.name, layer, differ);
  }
}

void check_all(const Subject& s) {
  const int hidden = s.network.target.hidden;
  for (size_t i = 0; i < s.ids.size(); ++i) {
    const std::vector<double> row = embedding(s.network, s.ids[i]);
    for (int k = 0; k < hidden; ++k)
      if (s.states.residual[0][i * hidden + k] != row[static_cast<size_t>(k)]) tally::that(false, "%s: the embedding of token %zu differs at %d", s.size.name, i, k);
  }
  for (const int layer : s.size.layers) check_layer(s, layer);
}

constexpr const char* kMistakes[] = {"input_norm", "qkv_scale", "turn",     "value_scale", "window",       "later",  "sink",      "o_row",
                                     "post_norm",  "dense_row", "gate_row", "down_row",    "expert_scale", "bias",   "normalise", "router_row"};

int break_all(const Subject& s) {
  int unnoticed = 0, count = 0;
  for (const char* mistake : kMistakes) {
    constexpr int kPrinted = 1000;  // findings beyond the first are not printed
    tally::findings = kPrinted;
    broken = mistake;
    check_all(s);
    ++count;
    if (tally::findings > kPrinted) continue;
    ++unnoticed;
    std::printf("FAILED: nobody notices %s\n", mistake);
  }
  std::printf("stack layer: %d of %d mistakes noticed\n", count - unnoticed, count);
  return unnoticed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (tally::no_gpu()) return 3;
  std::vector<std::string> names;
  std::string mistake;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--break" && i + 1 < argc) mistake = argv[++i];
    else if (word == "--exact") cut_at = 0;
    else names.push_back(word);
  }
  const auto is = [](const std::string& word) { return [word](const auto& one) { return word == one; }; };
  bool known = mistake.empty() || mistake == "all" || std::any_of(std::begin(kMistakes), std::end(kMistakes), is(mistake));
  for (const std::string& name : names) known = known && std::any_of(sizes().begin(), sizes().end(), [&](const Size& size) { return name == size.name; });
  if (!known) {
    std::printf("no such shape or mistake\n");
    return 2;
  }
  if (names.empty()) names = mistake.empty() ? std::vector<std::string>{"rank", "whole"} : std::vector<std::string>{"small"};
  try {
    for (const Size& size : sizes()) {
      if (std::none_of(names.begin(), names.end(), is(size.name))) continue;
      const Subject subject = make(size);
      if (mistake == "all") return break_all(subject);
      broken = mistake;
      const double began = seconds();
      check_all(subject);
      std::printf("  in double: %.1f s\n", seconds() - began);
    }
  } catch (const std::exception& error) {
    tally::that(false, "%s", error.what());
  }
  return tally::finish("stack layer");
}
