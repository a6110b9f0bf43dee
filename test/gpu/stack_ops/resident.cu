// A small list on the resident kernel: embedding, a linear, the residual, a head, the pick, the end of a round. Over a prompt of three steps and some rounds of
// decoding, every buffer that carries its own readiness is used with both marks; the same list one instruction a launch must give the same bits.
#include <cstdlib>

#include "core/ties.h"
#include "kernels/pack/pack.cuh"
#include "rig.h"

namespace kilotoken::ops {

namespace {

constexpr int kHidden = 256, kVocab = 320, kPrompt = 20, kContext = 64;

struct Packed {
  Guarded<uint8_t> pages;
  Tiling tiling;
  Guarded<float> parts;
};

Packed pack(int rows, int k, Format format, int blocks) {
  Packed p;
  p.tiling = tile(rows, k, format, blocks);
  std::vector<uint8_t> codes(static_cast<size_t>(rows) * k * (format == Format::kE4m3 ? 1 : 2));
  if (format == Format::kE4m3) {
    for (uint8_t& code : codes) code = static_cast<uint8_t>(generator() & 0xbf);
  } else {
    const std::vector<float> x = normals(codes.size() / 2, 0.1f);
    for (size_t i = 0; i < x.size(); ++i) {
      const uint16_t code = float_to_bf16(x[i]);
      std::memcpy(&codes[2 * i], &code, 2);
    }
  }
  const Guarded<uint8_t> stored(codes);
  const Guarded<float> scales(std::vector<float>(static_cast<size_t>((rows + 127) / 128) * (k / 128), 0.03f));
  std::vector<RowSource> order(static_cast<size_t>(p.tiling.tiles) * kTileRows, RowSource{-1, 0, 0});
  for (int i = 0; i < rows; ++i) order[i] = {0, 0, i};
  const Device<RowSource> map(order);
  p.pages = Guarded<uint8_t>(static_cast<size_t>(all_pages(p.tiling)) * page_bytes(format));
  const Matrix from[3] = {{format == Format::kE4m3 ? Storage::kE4m3 : Storage::kBf16, stored.get(), scales.get(), rows, k, 0}, {}, {}};
  check(pack_linear(p.pages.get(), p.tiling, format, from, map.get(), nullptr), "packing");
  check(cudaDeviceSynchronize(), "packing");
  p.parts = Guarded<float>(static_cast<size_t>(part_places(p.tiling)) * kPartFloats, 0);
  return p;
}

}  // namespace

void test_resident() {
  const int passed = tally::passed;
  Rig rig(small ? 8 : 24);
  const Packed branch = pack(kHidden, kHidden, Format::kE4m3, rig.blocks), head = pack(kVocab, kHidden, Format::kBf16, rig.blocks);
  std::vector<uint16_t> table(static_cast<size_t>(kVocab) * kHidden);
  for (uint16_t& code : table) code = float_to_bf16(normals(1)[0]);
  const Guarded<uint16_t> embedding(table);
  const Guarded<float> weight(normals(kHidden)), residual(static_cast<size_t>(kRows) * kHidden), squares(kHidden / kQuantGroup * kRows), logits(static_cast<size_t>(kRows) * kVocab);
  const InputsOut to_branch(kHidden), to_head(kHidden);
  const Guarded<uint64_t> best(kRows * static_cast<size_t>(head.tiling.tiles), 0);
  const Guarded<double> row(static_cast<size_t>(kRows) * kVocab), draft_row(static_cast<size_t>(kRows) * kVocab);
  rig.program.comm.best[0] = best.get();
  constexpr Uses kOnce = 4;  // one use in the part of the list that verifies

  std::vector<Instruction> list;
  const auto add = [&](Op op, int waits, int workers) -> Instruction& {
    list.push_back(instruction(op));
    list.back().waits = waits;
    list.back().arrivals = waits >= 0 ? static_cast<uint32_t>(list[waits].workers) : 0;
    list.back().workers = workers;
    return list.back();
  };
  const Norm norm{squares.get(), kHidden / kQuantGroup, kHidden, 1e-6f};
  add(Op::kEmbed, -1, kHidden / kQuantGroup).embed = {embedding.get(), nullptr, -1, weight.get(), residual.get(), squares.get(), to_branch.args(), kHidden};
  const Inputs a = to_branch.args(), b = to_head.args();
  add(Op::kLinear, 0, rig.blocks).linear = {branch.pages.get(), branch.tiling, Format::kE4m3, a.codes, a.scales, branch.parts.get(), kOnce};
  ReduceArgs& r = add(Op::kReduce, -1, kHidden / kQuantGroup).reduce;
  r.parts = {branch.parts.get(), branch.tiling, kOnce};
  r.residual = residual.get();
  r.norm_weight = weight.get();
  r.squares = squares.get();
  r.out = b;
  r.hidden = kHidden;
  add(Op::kLinear, 2, rig.blocks).linear = {head.pages.get(), head.tiling, Format::kBf16, b.high, b.low, head.parts.get(), kOnce};
  add(Op::kLogits, -1, rig.blocks).logits = {{head.parts.get(), head.tiling, kOnce}, norm, logits.get(), kOnce, kVocab, 0, kVocab};
  add(Op::kPick, 4, rig.blocks).pick = {logits.get(), kOnce, row.get(), draft_row.get(), kVocab, head.tiling.tiles};
  add(Op::kAccept, 5, 1);

  struct Outcome {
    std::vector<int32_t> tokens;
    std::vector<float> logits;
    uint32_t length, round;
  };
  const auto decode = [&](bool resident) {
    std::vector<int32_t> text(kContext + kRows, 0);
    for (int i = 0; i < kPrompt; ++i) text[i] = (i * 37 + 5) % kVocab;
    const Guarded<int32_t> tokens(text);
    SessionState& s = rig.session;
    s = SessionState{};
    s.tokens = tokens.get();
    s.block_size = 1;
    s.max_context = kContext;
    s.max_tokens = 9;
    s.prompt_length = s.length = kPrompt;
    s.phase = Phase::kPrefill;
    s.rows = kRows;
    std::copy_n(text.begin(), kRows, s.step);
    std::memset(static_cast<void*>(rig.mailbox), 0, sizeof(Mailbox));
    residual.fill(0xff), squares.fill(0xff), logits.fill(0xff);  // nothing of the run before
    for (int pass = 0; pass < 16 && s.phase != Phase::kFull; ++pass) {
      if (resident) rig.run_resident(list, pass == 0 ? 4 : 100);
      else rig.run_one_by_one(list);
    }
    return Outcome{tokens.read("resident"), logits.read("resident"), s.length, s.round};
  };
  const Outcome one_by_one = decode(false), resident = decode(true), again = decode(true);
  std::vector<int32_t> expected = one_by_one.tokens;
  if (breaks("resident.token")) expected[kPrompt + 2] += 1;
  tally::that(resident.length == kPrompt + 9 && resident.round == 9, "resident: %u tokens in %u rounds, expected 29 in 9", resident.length, resident.round);
  tally::that(resident.tokens == expected && again.tokens == expected, "resident: other tokens than one instruction a launch");
  tally::that(std::memcmp(resident.logits.data(), one_by_one.logits.data(), kVocab * sizeof(float)) == 0 && same_bytes(resident.logits, again.logits),
              "resident: other logits than one instruction a launch");
  tally::that(argmax(resident.logits.data(), kVocab) == resident.tokens[kPrompt + 8] + (breaks("resident.pick") ? 1 : 0), "resident: the last token is not the row's first best");
  if (broken.empty()) std::printf("%-28s %10d checks\n", "resident list", tally::passed - passed);
}

}  // namespace kilotoken::ops
