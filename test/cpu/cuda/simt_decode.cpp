// nano on the stack, on the GPU in software: plain and speculative greedy decoding, resident and instruction by instruction, must give one text, and it must be the most
// probable one by the CPU engine's rows; sampled, both launch modes must agree. Arguments: a spec (test/gpu/write-spec.mjs), a number of tokens.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/stack.h"
#include "native/cuda/stack_source.h"
#include "native/engine/model.h"
#include "test/gpu/check.h"
#include "test/gpu/spec_file.h"

using namespace kilotoken;
using stack::Mode;

namespace {

constexpr double kNearTie = 0.05;  // nats

struct Text {
  std::vector<int32_t> ids;
  int rounds = 0;
};

Text decode(stack::Stack& stack, const stack::Request& request, Mode mode) {
  Text text;
  const auto session = stack.open(request);
  while (text.ids.size() < request.max_tokens) {
    const auto rounds = session->run(1, mode);
    if (rounds.empty()) break;
    for (const auto& round : rounds) {
      text.ids.insert(text.ids.end(), round.committed.begin(), round.committed.end());
      ++text.rounds;
    }
  }
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    ModelSpec spec = read_spec(argv[1]);
    spec.activations = Activations::kFp8;
    const auto source = checkpoint_source(spec);
    const stack::DraftShape draft = stack_draft(spec.draft);
    const auto stack = stack::Stack::make(0, stack_target(spec.target), &draft, *source);
    stack::Request request;
    // def add(a, b):\n    """Return the sum of a and b."""\n    return
    request.prompt = {497, 825, 1009, 11, 311, 470, 300, 552, 49, 316, 388, 272, 748, 301, 261, 325, 311, 874, 300, 404};
    request.max_tokens = static_cast<uint32_t>(std::stoul(argv[2]));
    request.rule = stack::DecodeRule::kMatch;
    request.temperature = 0;
    request.block_size = 1;
    const Text plain = decode(*stack, request, Mode::kResident);
    request.block_size = draft.block_size;
    const Text resident = decode(*stack, request, Mode::kResident), alone = decode(*stack, request, Mode::kOps);
    tally::that(plain.ids.size() >= request.max_tokens && resident.ids == plain.ids && alone.ids == plain.ids, "speculative and plain greedy decoding differ");
    tally::that(resident.rounds == alone.rounds, "the launch modes take different numbers of rounds");

    std::vector<int32_t> ids = request.prompt;
    ids.insert(ids.end(), plain.ids.begin(), plain.ids.end());
    // The two round in different places: where the CPU engine finds two tokens nearly as probable, either may come.
    const auto rows = Model::load(spec)->score(ids, 2, 8).top;
    for (size_t i = 0; i < plain.ids.size(); ++i) {
      const auto& row = rows[request.prompt.size() - 1 + i];
      const bool second = row.ids[1] == plain.ids[i];
      if (second) std::printf("token %zu: the CPU engine finds another one more probable by %.3f nats\n", i, row.logprobs[0] - row.logprobs[1]);
      tally::that(row.ids[0] == plain.ids[i] || (second && row.logprobs[0] - row.logprobs[1] < kNearTie), "token %zu is not one that the CPU engine finds most probable", i);
    }

    request.rule = stack::DecodeRule::kReject;
    request.temperature = 1;
    request.seed = 7;
    tally::that(decode(*stack, request, Mode::kResident).ids == decode(*stack, request, Mode::kOps).ids, "sampled: the launch modes differ");
    std::printf("%zu tokens in %d rounds\n", resident.ids.size(), resident.rounds);
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 3;
  }
  return tally::finish("simulated stack");
}
