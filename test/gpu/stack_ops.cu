// Every operation of the stack alone, on the GPU, on buffers made by hand, against a computation in double. Bounds are derived from epsilon and length and stated where
// they are used; memory beyond what is valid holds NaN. A comparison that cannot fail is worth nothing, so each has mistakes of its own that it must notice.
//   stack_ops [--small] [NAME ...]   the operations whose names are given, or all; --small: fewer cases, for compute-sanitizer
//   stack_ops --break all [NAME ...] every mistake, one after the other; fails where one is not noticed
//   stack_ops --break OPERATION.WHAT one of them: must exit with 1
#include <algorithm>
#include <chrono>

#include "stack_ops/rig.h"

using namespace kilotoken;
using namespace kilotoken::ops;

namespace {

struct Test {
  const char* name;
  void (*run)();
  std::vector<const char*> mistakes;
};

const std::vector<Test>& tests() {
  static const std::vector<Test> all = {
      {"embed", test_embed, {"embed.row", "embed.mask", "embed.norm", "embed.squares"}},
      {"reduce", test_reduce, {"reduce.column", "reduce.residual", "reduce.tap", "reduce.norm", "reduce.squares"}},
      {"all_reduce", test_all_reduce, {"all_reduce.mine", "all_reduce.sent"}},
      {"swiglu", test_swiglu, {"swiglu.factor", "swiglu.up"}},
      {"linear", test_linear, {"linear.mark", "linear.row", "linear.k", "linear.term"}},
      {"qkv", test_qkv, {"qkv.position", "qkv.norm", "qkv.value_scale"}},
      {"window", test_window, {"window.value", "window.group", "window.position", "window.one_more", "window.later", "window.sink"}},
      {"attend", test_attend, {"attend.first", "attend.later", "attend.causal_block", "attend.sink"}},
      {"topk", test_topk, {"topk.low", "topk.ties", "topk.bias", "topk.nan", "topk.normalise"}},
      {"up", test_experts_up, {"up.rank", "up.weight", "up.k", "up.row"}},
      {"down", test_experts_down, {"down.expert", "down.k", "down.output"}},
      {"logits", test_logits, {"logits.factor", "logits.tie"}},
      {"pick", test_picks, {"pick.row", "pick.greedy", "pick.top_k", "pick.top_p", "pick.temperature", "pick.position"}},
      {"accept", test_accept, {"accept.bonus", "accept.finish", "accept.start"}},
      {"resident", test_resident, {"resident.token", "resident.pick"}},
  };
  return all;
}

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// False if the GPU gave up: nothing more can be asked of it in this process.
bool run(const Test& test) {
  generator.seed(20261121);
  const double began = seconds();
  try {
    test.run();
  } catch (const std::exception& error) {
    tally::that(false, "%s: %s", test.name, error.what());
    return false;
  }
  if (broken.empty() && seconds() - began > 5) std::printf("%s took %.1f s\n", test.name, seconds() - began);
  return true;
}

bool chosen(const std::vector<std::string>& names, const char* name) { return names.empty() || std::find(names.begin(), names.end(), name) != names.end(); }

int break_all(const std::vector<std::string>& names) {
  small = true;
  int unnoticed = 0, count = 0;
  for (const Test& test : tests()) {
    if (!chosen(names, test.name)) continue;
    for (const char* mistake : test.mistakes) {
      constexpr int kPrinted = 1000;  // findings beyond the first are not printed
      tally::findings = kPrinted;
      broken = mistake;
      if (!run(test)) {
        std::printf("FAILED: the GPU gave up with %s\n", mistake);
        return 1;
      }
      ++count;
      if (tally::findings > kPrinted) continue;
      ++unnoticed;
      std::printf("FAILED: nobody notices %s\n", mistake);
    }
  }
  std::printf("stack ops: %d of %d mistakes noticed\n", count - unnoticed, count);
  return unnoticed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::vector<std::string> names;
  std::string mistake;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--small") small = true;
    else if (word == "--break" && i + 1 < argc) mistake = argv[++i];
    else names.push_back(word);
  }
  try {
    check(cudaSetDevice(0), "the GPU");
    check(prepare_kernel(), "loading the kernel");
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 3;
  }
  if (mistake == "all") return break_all(names);
  bool known = mistake.empty();
  for (const Test& test : tests()) {
    for (const char* one : test.mistakes)
      if (mistake == one) {
        known = true;
        names = {test.name};
      }
  }
  if (!known) {
    std::printf("no such mistake: %s\n", mistake.c_str());
    return 2;
  }
  broken = mistake;
  for (const Test& test : tests())
    if (chosen(names, test.name) && !run(test)) break;
  return tally::finish("stack ops");
}
