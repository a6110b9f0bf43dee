// What happens when the stack's kernel cannot go on: each case must end within seconds with an error that says what and where (fault_cases.h).
//   stack_faults CASE; without an argument, the cases
#include <cmath>
#include <string>

#include "fault_cases.h"
#include "kernels/device_memory.h"
#include "kernels/model.h"
#include "kernels/persistent/kernel.cuh"
#include "kernels/stack.h"
#include "stack_ops/rig.h"

using namespace kilotoken;
using namespace kilotoken::stack;

namespace {

constexpr int kVocab = 3;

// A toy whose logits behind every token are `row`.
ToyTables toy_of(float a, float b, float c) {
  ToyTables toy;
  toy.vocab = kVocab;
  toy.order = 1;
  toy.block = 1;
  toy.max_context = 32;
  for (int i = 0; i < kVocab; ++i) toy.target.insert(toy.target.end(), {a, b, c});
  return toy;
}

void decode_toy(const ToyTables& toy, Mode mode) {
  const auto stack = Stack::make_toy(0, toy);
  Request request;
  request.prompt = {1, 2};
  request.max_tokens = 8;
  const auto session = stack->open(request);
  while (!session->finished()) session->run(4, mode);
}

// A list whose second instruction waits for a first that nobody ever runs: none of its workers exist.
void wait_for_nobody() {
  ops::Rig rig(8);
  std::vector<Instruction> list(2, ops::instruction(Op::kAccept));
  list[0].waits = -1;
  list[0].workers = 0;
  list[1].waits = 0;
  list[1].arrivals = 1;
  list[1].workers = 1;
  rig.session.prompt_length = rig.session.length = rig.session.rows = 1;
  rig.run_resident(list, 1);
}

// Sums that are never made: a reduction whose parts have the other mark.
void wait_for_parts() {
  ops::Rig rig(8);
  const Tiling tiling = tile(256, 256, Format::kE4m3, 4);
  const ops::Guarded<float> parts(static_cast<size_t>(part_places(tiling)) * kPartFloats, 0), residual(std::vector<float>(kRows * 256, 0.0f));
  Instruction ins = ops::instruction(Op::kReduce);
  ins.reduce.parts = {parts.get(), tiling, 0};
  ins.reduce.residual = residual.get();
  ins.reduce.hidden = 256;
  rig.step(0, 1);
  rig.run(ins);
}

// The choice of experts never comes.
void wait_for_experts() {
  ops::Rig rig(8);
  const Device<Choice> choice(1);
  const Device<uint8_t> buffer(1 << 20);
  Instruction ins = ops::instruction(Op::kExpertsDown);
  ins.down.pages = buffer.get();
  ins.down.choice = choice.get();
  ins.down.h = buffer.get();
  ins.down.parts = reinterpret_cast<float*>(buffer.get());
  ins.down.storage = Storage::kMxfp4;
  ins.down.experts = 16;
  ins.down.units = ins.down.tiles = 4;
  ins.down.by_tiles = divisor(4);
  ins.down.up_tiles = 2;
  ins.down.by_up_tiles = divisor(2);
  ins.down.passes = ins.down.units_per_pass = 1;
  ins.down.experts_per_page = 8;
  rig.step(0, 1);
  rig.run(ins);
}

// More blocks than can be resident: the launch itself must be refused.
void too_many_blocks() {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "the GPU");
  ops::Rig rig(properties.multiProcessorCount + 1);
  std::vector<Instruction> list(1, ops::instruction(Op::kAccept));
  list[0].waits = -1;
  list[0].workers = 1;
  rig.session.prompt_length = rig.session.length = rig.session.rows = 1;
  rig.run_resident(list, 1);
}

void too_large_a_grid() { Stack::make_toy(0, toy_of(0, 1, 2), 100000); }

// A target whose embedding alone is beyond any GPU's memory: the source is never asked for more.
class Nothing final : public WeightSource {
 public:
  Matrix get(Tensor, int) override {
    const size_t bytes = size_t{1} << 43;
    all_ = Device<uint8_t>(bytes);
    return {};
  }
  void release() override {}

 private:
  Device<uint8_t> all_;
};

void too_little_memory() {
  Nothing source;
  TargetShape target;
  target.hidden = 256;
  target.vocab = 1024;
  target.max_context = 64;
  Stack::make(0, target, nullptr, source);
}

const FaultCases& cases() {
  static const FaultCases all = {
      {"nan", {[] { decode_toy(toy_of(0, std::nanf(""), 1), Mode::kResident); }, 70, {{"not a number"}}}},
      {"nan-graph", {[] { decode_toy(toy_of(0, std::nanf(""), 1), Mode::kGraph); }, 70, {{"not a number"}}}},
      {"inf", {[] { decode_toy(toy_of(0, INFINITY, 1), Mode::kResident); }, 70, {{"not a number"}}}},
      {"no-token", {[] { decode_toy(toy_of(-INFINITY, -INFINITY, -INFINITY), Mode::kResident); }, 70, {{"without any token"}}}},
      {"wait", {wait_for_nobody, 70, {{"fault 7"}}}},
      {"parts", {wait_for_parts, 70, {{"fault 8"}}}},
      {"experts", {wait_for_experts, 70, {{"fault 6"}}}},
      {"blocks", {too_many_blocks, 3, {{"too many blocks"}}}},
      {"grid", {too_large_a_grid, 2, {{"more blocks than multiprocessors"}}}},
      {"memory", {too_little_memory, 3, {{"memory"}}}},
      {"none", {[] { decode_toy(toy_of(0, 1, 2), Mode::kResident); }, 0, {{""}}}},
  };
  return all;
}

void need_a_gpu() {
  check(cudaSetDevice(0), "the GPU");
  check(prepare_kernel(), "loading the kernel");
}

// None of these cases decodes on GPUs that can fail one another.
constexpr bool kDecoding = false;

}  // namespace

int main(int argc, char** argv) { return run_fault_case(argc, argv, cases(), need_a_gpu, kDecoding); }
