// The residual stream: embed, reduce, the sum over GPUs (one of them played by the host), swiglu.
#include "rig.h"

namespace kilotoken::ops {

namespace {

struct Stream {
  std::vector<float> residual, squares;  // [8][hidden], [hidden / 128][8]
  InputsOut::Host inputs;
};

// What embed and reduce make of a residual that is taken as it is: squares (128 terms in eight additions, one product each) and inputs of x w, one rounding.
void check_stream(Worst& worst, const Stream& s, const std::vector<float>& weight, int hidden, int row, const char* op) {
  const std::string name(op);
  std::vector<double> values(hidden), bound(hidden, 0.0);
  const int shift = broken == name + ".norm" ? 1 : 0, of = broken == name + ".squares" ? (row + 1) % kRows : row;
  for (int k = 0; k < hidden; ++k) values[k] = static_cast<double>(s.residual[static_cast<size_t>(row) * hidden + k] * weight[(k + shift) % hidden]);
  check_inputs(worst, s.inputs, row, values, bound);
  for (int g = 0; g < hidden / kQuantGroup; ++g) {
    double sum = 0;
    for (int k = g * kQuantGroup; k < (g + 1) * kQuantGroup; ++k) sum += std::pow(static_cast<double>(s.residual[static_cast<size_t>(of) * hidden + k]), 2);
    worst.look("squares", g, s.squares[g * kRows + row], sum, gamma(9) * sum);
  }
}

void same_stream(const char* what, const Stream& a, const Stream& b, int hidden, int rows) {
  same_rows(what, a.inputs, b.inputs, rows);
  tally::that(std::memcmp(a.residual.data(), b.residual.data(), sizeof(float) * hidden * rows) == 0, "%s: residual of %d rows has other bits", what, rows);
  for (int g = 0; g < hidden / kQuantGroup; ++g)
    tally::that(std::memcmp(&a.squares[g * kRows], &b.squares[g * kRows], sizeof(float) * rows) == 0, "%s: squares of %d rows have other bits", what, rows);
}

}  // namespace

void test_embed() {
  Worst worst("embed");
  constexpr int kVocab = 80, kMask = 77;
  for (const int hidden : {256, 1536, 6144}) {
    Rig rig(hidden == 256 ? 8 : 20);
    const std::vector<float> weight = normals(hidden), mask = normals(hidden);
    std::vector<uint16_t> table(static_cast<size_t>(kVocab) * hidden, 0xffff);  // rows that nobody asks for stay NaN
    for (int r = 0; r < kRows; ++r) {
      rig.session.step[r] = 3 + 9 * r;
      for (int k = 0; k < hidden; ++k) table[static_cast<size_t>(3 + 9 * r) * hidden + k] = float_to_bf16(normals(1)[0]);
    }
    const Guarded<uint16_t> device_table(table);
    const Guarded<float> device_weight(weight), device_mask(mask);
    for (const bool draft : {false, true}) {
      Stream eight{};
      for (int rows = kRows; rows >= 1; --rows) {
        const bool masked_anchor = draft && rows == 2;
        if (masked_anchor) rig.session.step[0] = kMask;
        const Guarded<float> residual(static_cast<size_t>(kRows) * hidden), squares(hidden / kQuantGroup * kRows);
        const InputsOut out(hidden);
        Instruction ins = instruction(Op::kEmbed);
        ins.embed.table = device_table.get();
        ins.embed.mask = draft ? device_mask.get() : nullptr;
        ins.embed.mask_id = draft ? kMask : -1;
        ins.embed.norm_weight = device_weight.get();
        ins.embed.residual = residual.get();
        ins.embed.squares = squares.get();
        ins.embed.out = out.args();
        ins.embed.hidden = hidden;
        rig.step(100, rows);
        rig.run(ins, rows % 2 == 0 ? 0 : std::min(rig.blocks, hidden / kQuantGroup));
        const Stream got{residual.read("embed"), squares.read("embed"), out.read("embed")};
        for (int r = 0; r < kRows; ++r) {
          const int id = breaks("embed.row") ? rig.session.step[(r + 1) % kRows] : rig.session.step[r];
          for (int k = 0; k < hidden; ++k) {
            const bool masked = draft && (r > 0 || masked_anchor);
            const float x = r >= rows ? 0.0f : masked ? mask[breaks("embed.mask") ? (k + 1) % hidden : k] : bf16_to_float(table[static_cast<size_t>(id) * hidden + k]);
            worst.look("residual", k, got.residual[static_cast<size_t>(r) * hidden + k], x, 0);
          }
          check_stream(worst, got, weight, hidden, r, "embed");
        }
        if (masked_anchor) {
          rig.session.step[0] = 3;
          continue;
        }
        if (rows == kRows) eight = got;
        same_stream("embed", eight, got, hidden, rows);
      }
    }
    if (small) break;
  }
}

namespace {

Tiling down_tiling(int hidden, int width) {
  Tiling t{};
  t.tiles = hidden / kTileRows;
  t.slices = width / kDownK;
  t.most = 1;
  return t;
}

}  // namespace

void test_reduce() {
  Worst worst("reduce");
  struct Case {
    int hidden;
    Tiling tiling;
  };
  std::vector<Case> cases = {{256, tile(256, 256, Format::kE4m3, 4)}, {768, tile(768, 1536, Format::kBf16, 13)}};
  if (!small) {
    cases.push_back({1024, down_tiling(1024, 704)});
    cases.push_back({1536, tile(1536, 12288, Format::kE4m3, 24)});   // two slices, a unit shared by blocks
    cases.push_back({256, tile(256, 6144, Format::kE4m3, 64)});      // a unit in sixteen pieces
    cases.push_back({6144, tile(6144, 3072, Format::kBf16, 132)});
  }
  for (const Case& c : cases) {
    const int hidden = c.hidden;
    Rig rig(std::min(20, hidden / kQuantGroup + 7));
    const std::vector<float> weight = normals(hidden), before = normals(static_cast<size_t>(kRows) * hidden);
    const Guarded<float> device_weight(weight);
    for (int variant = 0; variant < 4; ++variant) {  // as behind a branch; with taps; without a residual of its own; only taps
      for (int n = 0; n < 3; ++n) {                  // both marks
        const bool keeps = variant != 2, taps = variant == 1 || variant == 3, makes = variant != 3;
        HandParts parts(c.tiling, kRows, 1.0f, n);
        const Guarded<float> residual(before), squares(hidden / kQuantGroup * kRows);
        const InputsOut out(hidden), tap(hidden);
        Instruction ins = instruction(Op::kReduce);
        ins.reduce.parts = parts.args();
        ins.reduce.residual = keeps ? residual.get() : nullptr;
        ins.reduce.norm_weight = makes ? device_weight.get() : nullptr;
        ins.reduce.squares = squares.get();
        if (makes) ins.reduce.out = out.args();
        if (taps) ins.reduce.tap = {nullptr, nullptr, tap.args().high, tap.args().low};
        ins.reduce.hidden = hidden;
        rig.step(5, kRows);
        rig.run(ins);
        Stream got{residual.read("reduce"), squares.read("reduce"), out.read("reduce")};
        const InputsOut::Host tapped = tap.read("reduce");
        for (int r = 0; r < kRows; ++r)
          for (int k = 0; k < hidden; ++k) {
            const HandParts::Sum s = parts.sum(r, breaks("reduce.column") ? k ^ 1 : k);
            const float old = before[static_cast<size_t>(r) * hidden + k];
            float& now = got.residual[static_cast<size_t>(r) * hidden + k];
            const double expected = (keeps && !breaks("reduce.residual") ? old : 0.0) + s.value, bound = gamma(s.terms + 1) * (s.magnitude + std::fabs(old));
            if (keeps) {
              worst.look("residual", k, now, expected, bound);
            } else {  // what was made is known by its inputs alone
              now = static_cast<float>(expected);
            }
            if (taps && r < 2) worst.look("tap", k, tapped.split(r, breaks("reduce.tap") ? k ^ 8 : k), keeps ? now : expected, bound + std::fabs(expected) * 0x1p-16);
          }
        if (makes && keeps)
          for (int r = 0; r < kRows; ++r) check_stream(worst, got, weight, hidden, r, "reduce");
        if (makes && !keeps) {
          for (int r = 0; r < kRows; ++r) {
            std::vector<double> values(hidden), bound(hidden);
            for (int k = 0; k < hidden; ++k) {
              const HandParts::Sum s = parts.sum(r, k);
              values[k] = s.value * weight[k];
              bound[k] = gamma(s.terms + 2) * s.magnitude * std::fabs(weight[k]);
            }
            check_inputs(worst, got.inputs, r, values, bound);
          }
        }
        if (small && n == 1) break;
      }
      if (small && variant == 1) break;
    }
    // Rows alone: the same parts with NaN in the rows that are not there.
    Stream eight{};
    const std::mt19937 begin = generator;
    for (int rows = kRows; rows >= 1; --rows) {
      generator = begin;
      const HandParts parts(c.tiling, rows, 1.0f, 0);
      std::vector<float> old = before;
      for (size_t i = static_cast<size_t>(rows) * hidden; i < old.size(); ++i) old[i] = std::nanf("");
      const Guarded<float> residual(old), squares(hidden / kQuantGroup * kRows);
      const InputsOut out(hidden);
      Instruction ins = instruction(Op::kReduce);
      ins.reduce.parts = parts.args();
      ins.reduce.residual = residual.get();
      ins.reduce.norm_weight = device_weight.get();
      ins.reduce.squares = squares.get();
      ins.reduce.out = out.args();
      ins.reduce.hidden = hidden;
      rig.step(5, rows);
      rig.run(ins);
      const Stream got{residual.read("reduce"), squares.read("reduce"), out.read("reduce")};
      if (rows == kRows) eight = got;
      same_stream("reduce", eight, got, hidden, rows);
    }
  }
}

// This GPU is rank 0 or 1 of two; what the other would send lies there already, and what is sent to it is read.
void test_all_reduce() {
  Worst worst("reduce over two GPUs");
  constexpr int hidden = 768, groups = hidden / kQuantGroup;
  const Tiling tiling = tile(hidden, 512, Format::kE4m3, 8);
  for (const bool one_hop : {false, true})
    for (int rank = 0; rank < 2; ++rank)
      for (int n = 0; n < 3; ++n) {
        Rig rig(8);
        const int other = 1 - rank;
        const HandParts parts(tiling, kRows, 1.0f, n);
        const size_t inbox_floats = static_cast<size_t>(2) * groups * 2 * kGroupFloats, outbox_floats = static_cast<size_t>(groups) * kGroupFloats;
        std::vector<float> inbox(inbox_floats, std::nanf("")), outbox(outbox_floats, std::nanf(""));
        const std::vector<float> theirs = normals(outbox_floats);  // [group][8][128]: the other's sums, or the finished ones where it owns the group
        const int half = one_hop ? n % 2 : 0;
        for (int g = 0; g < groups; ++g)
          for (int i = 0; i < kGroupFloats; ++i) {
            const float x = with_mark(theirs[static_cast<size_t>(g) * kGroupFloats + i], mark(n));
            if (one_hop || g % 2 == rank) inbox[(static_cast<size_t>(half * groups + g) * 2 + other) * kGroupFloats + i] = x;
            else outbox[static_cast<size_t>(g) * kGroupFloats + i] = x;
          }
        const Guarded<float> my_inbox(inbox), my_outbox(outbox), their_inbox(inbox_floats), their_outbox(outbox_floats), residual(std::vector<float>(kRows * hidden, 0.0f));
        rig.program.comm.rank = rank;
        rig.program.comm.ranks = 2;
        rig.program.comm.one_hop = one_hop;
        rig.program.comm.inbox[rank] = my_inbox.get(), rig.program.comm.inbox[other] = their_inbox.get();
        rig.program.comm.outbox[rank] = my_outbox.get(), rig.program.comm.outbox[other] = their_outbox.get();
        Instruction ins = instruction(Op::kReduce);
        ins.reduce.parts = parts.args();
        ins.reduce.residual = residual.get();
        ins.reduce.hidden = hidden;
        ins.reduce.comm_uses = use(n);
        ins.reduce.comm_half = half;
        rig.step(5, kRows);
        rig.run(ins);
        const std::vector<float> got = residual.read("sum over GPUs"), sent_in = their_inbox.read("sum over GPUs"), sent_out = their_outbox.read("sum over GPUs");
        for (int r = 0; r < kRows; ++r)
          for (int k = 0; k < hidden; ++k) {
            const int g = k / kQuantGroup, i = r * kQuantGroup + k % kQuantGroup;
            const HandParts::Sum s = parts.sum(r, k);
            const double x = with_mark(theirs[static_cast<size_t>(g) * kGroupFloats + i], 0);
            const bool finished = !one_hop && g % 2 != rank;  // theirs is the sum
            const double expected = finished || breaks("all_reduce.mine") ? x : x + s.value;
            const double bound = gamma(s.terms + 3) * (s.magnitude + std::fabs(x)) + 0x1p-23 * (std::fabs(x) + s.magnitude);  // a mark costs one bit
            worst.look("sum", k, got[static_cast<size_t>(r) * hidden + k], expected, bound);
            if (one_hop || finished) {
              const float mine = sent_in[(static_cast<size_t>(half * groups + g) * 2 + rank) * kGroupFloats + i];
              worst.look("sent", k, mine, breaks("all_reduce.sent") ? s.value + 0.01 : s.value, gamma(s.terms) * s.magnitude + 0x1p-22 * std::fabs(s.value));
              tally::that(mark_in(mine) == mark(n), "all_reduce: a mark is missing");
            } else {
              const float sum = sent_out[static_cast<size_t>(g) * kGroupFloats + i];
              worst.look("sent back", k, sum, expected, bound);
              tally::that(mark_in(sum) == mark(n), "all_reduce: a mark is missing");
            }
          }
      }
}

void test_swiglu() {
  Worst worst("swiglu");
  for (const int width : {128, 384, 2048}) {
    Rig rig(8);
    const Tiling tiling = width == 2048 ? tile(2 * width, 6144, Format::kE4m3, 132) : tile(2 * width, 1024, Format::kBf16, 9);
    InputsOut::Host eight{};
    const std::mt19937 begin = generator;
    for (int rows = kRows; rows >= 1; --rows) {
      generator = begin;
      const HandNorm norm(width == 384 ? 3 : 48, rows, 1e-6f);
      const HandParts parts(tiling, rows, 2.0f, rows);
      const InputsOut out(width);
      Instruction ins = instruction(Op::kSwiglu);
      ins.swiglu.parts = parts.args();
      ins.swiglu.norm = norm.args();
      ins.swiglu.out = out.args();
      ins.swiglu.width = width;
      rig.step(9, rows);
      rig.run(ins);
      const InputsOut::Host got = out.read("swiglu");
      if (rows == kRows) eight = got;
      same_rows("swiglu", eight, got, rows);
      // h = g s(g) u: |dh| <= 1.1 |u| |dg| + |g s(g)| |du| + |h| (error of s: an exponential of 3 + 1.173 |g| units, a division of two, two products).
      for (int r = 0; r < rows; ++r) {
        std::vector<double> expected(width), bound(width);
        const double f = norm.factor(breaks("swiglu.factor") ? (r + 1) % rows : r);
        for (int i = 0; i < width; ++i) {
          const int gate = i / 8 * 16 + i % 8, up = breaks("swiglu.up") ? gate + 9 : gate + 8;
          const HandParts::Sum g = parts.sum(r, gate), u = parts.sum(r, up % (2 * width));
          const double x = g.value * f, y = u.value * f, s = 1 / (1 + std::exp(-x));
          const double dx = gamma(g.terms + HandNorm::kSteps + 1) * g.magnitude * f, dy = gamma(u.terms + HandNorm::kSteps + 1) * u.magnitude * f;
          expected[i] = x * s * y;
          bound[i] = 1.1 * std::fabs(y) * dx + std::fabs(x * s) * dy + std::fabs(expected[i]) * (3 + 1.173 * std::fabs(x) + 2 + 2) * 0x1p-23;
        }
        check_inputs(worst, got, r, expected, bound);
      }
    }
    if (small) break;
  }
}

}  // namespace kilotoken::ops
