// Linears: pages from row-major matrices, products, parts. Twice: with small integers, whose sums are exact on the tensor core too and must come out to the bit,
// and with random numbers within a bound. A tensor core's 32 products of E4M3 are aligned to the largest and cut 13 bits below its leading one, so a
// sum of 32 is off by 32 2^-13 of the largest product at most; sums of BF16 products keep binary32's 24 bits, cut instead of rounded: 2 gamma(n).
#include "kernels/pack/pack.cuh"
#include "rig.h"

namespace kilotoken::ops {

namespace {

struct Case {
  int rows, k;
  Format format;
  int blocks;
};

// A matrix as stored, and as numbers.
struct Stored {
  Guarded<uint8_t> codes8;
  Guarded<uint16_t> codes16;
  Guarded<float> scales;
  std::vector<double> value;  // [rows][k], scales in
  Matrix matrix;
};

Stored make_matrix(const Case& c, bool integers) {
  Stored m;
  const size_t count = static_cast<size_t>(c.rows) * c.k;
  m.value.resize(count);
  if (c.format == Format::kE4m3) {
    static constexpr uint8_t kIntegers[] = {0x00, 0x38, 0xb8, 0x40, 0xc0, 0x44, 0xc4};  // 0, 1, -1, 2, -2, 3, -3
    std::vector<uint8_t> codes(count);
    std::vector<float> scales(static_cast<size_t>((c.rows + 127) / 128) * ((c.k + 127) / 128));
    for (uint8_t& code : codes) {
      code = static_cast<uint8_t>(generator());
      if ((code & 0x7f) == 0x7f) code ^= 1;
      if (integers) code = kIntegers[below(7)];
    }
    for (float& scale : scales) scale = integers ? std::exp2(static_cast<float>(below(3))) : 0.001f * static_cast<float>(1 + below(1000));
    for (int r = 0; r < c.rows; ++r)
      for (int k = 0; k < c.k; ++k)
        m.value[static_cast<size_t>(r) * c.k + k] = static_cast<double>(e4m3_to_float(codes[static_cast<size_t>(r) * c.k + k])) *
                                                    scales[static_cast<size_t>(r / 128) * ((c.k + 127) / 128) + k / 128];
    m.codes8 = Guarded<uint8_t>(codes);
    m.scales = Guarded<float>(scales);
    m.matrix = {Storage::kE4m3, m.codes8.get(), m.scales.get(), c.rows, c.k, 0};
  } else {
    std::vector<uint16_t> codes(count);
    for (size_t i = 0; i < count; ++i) {
      codes[i] = float_to_bf16(integers ? static_cast<float>(below(7) - 3) : normals(1)[0]);
      m.value[i] = bf16_to_float(codes[i]);
    }
    m.codes16 = Guarded<uint16_t>(codes);
    m.matrix = {Storage::kBf16, m.codes16.get(), nullptr, c.rows, c.k, 0};
  }
  return m;
}

// Inputs of a step; rows that are not there hold NaN in every form.
struct Step {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<uint16_t> high, low;
  std::vector<double> value;  // [8][k]
};

Step make_step(const Case& c, bool integers) {
  Step s;
  s.value.resize(static_cast<size_t>(kRows) * c.k);
  if (c.format == Format::kE4m3) {
    static constexpr uint8_t kIntegers[] = {0x00, 0x38, 0xb8, 0x40, 0xc0};
    s.codes.resize(s.value.size());
    s.scales.resize(static_cast<size_t>(c.k) / kQuantGroup * kRows);
    for (float& scale : s.scales) scale = integers ? std::exp2(static_cast<float>(below(3) - 1)) : 0.01f * static_cast<float>(1 + below(100));
    for (int r = 0; r < kRows; ++r)
      for (int k = 0; k < c.k; ++k) {
        uint8_t code = integers ? kIntegers[below(5)] : static_cast<uint8_t>(generator());
        if ((code & 0x7f) == 0x7f) code ^= 1;
        s.codes[e4m3_input_offset(r, k)] = code;
        s.value[static_cast<size_t>(r) * c.k + k] = static_cast<double>(e4m3_to_float(code)) * s.scales[static_cast<size_t>(k / kQuantGroup) * kRows + r];
      }
  } else {
    s.high.resize(s.value.size());
    s.low.resize(s.value.size());
    for (int r = 0; r < kRows; ++r)
      for (int k = 0; k < c.k; ++k) {
        const float x = integers ? static_cast<float>(below(9) - 4) : normals(1)[0];
        const uint16_t high = float_to_bf16(x), low = integers ? float_to_bf16(static_cast<float>(below(3) - 1)) : float_to_bf16(x - bf16_to_float(high));
        s.high[bf16_input_index(r, k)] = high;
        s.low[bf16_input_index(r, k)] = low;
        s.value[static_cast<size_t>(r) * c.k + k] = static_cast<double>(bf16_to_float(high)) + bf16_to_float(low);
      }
  }
  return s;
}

void poison_rows(Step& s, const Case& c, int rows) {
  for (int r = rows; r < kRows; ++r)
    for (int k = 0; k < c.k; ++k) {
      if (c.format == Format::kE4m3) {
        s.codes[e4m3_input_offset(r, k)] = 0x7f;
        s.scales[static_cast<size_t>(k / kQuantGroup) * kRows + r] = std::nanf("");
      } else {
        s.high[bf16_input_index(r, k)] = s.low[bf16_input_index(r, k)] = 0xffff;
      }
    }
}

void test_case(const Case& c, bool integers, Worst& worst) {
  const Tiling t = tile(c.rows, c.k, c.format, c.blocks);
  Rig rig(c.blocks);
  const Stored m = make_matrix(c, integers);
  std::vector<RowSource> order(static_cast<size_t>(t.tiles) * kTileRows, RowSource{-1, 0, 0});
  for (int i = 0; i < c.rows; ++i) order[i] = {0, 0, i};
  const Device<RowSource> map(order);
  const Guarded<uint8_t> pages(static_cast<size_t>(all_pages(t)) * page_bytes(c.format));
  const Matrix from[3] = {m.matrix, {}, {}};
  check(pack_linear(pages.get(), t, c.format, from, map.get(), nullptr), "packing");
  check(cudaDeviceSynchronize(), "packing");
  pages.read("packing");

  const Step whole = make_step(c, integers);
  const Guarded<float> parts(static_cast<size_t>(part_places(t)) * kPartFloats, 0);
  std::vector<float> eight;
  int n = 0;
  for (int rows = kRows; rows >= 1; --rows, ++n) {
    if (small && rows < kRows && rows > 1) continue;
    Step step = whole;
    poison_rows(step, c, rows);
    Guarded<uint8_t> codes;
    Guarded<float> scales;
    Guarded<uint16_t> high, low;
    Instruction ins = instruction(Op::kLinear);
    ins.linear.pages = pages.get();
    ins.linear.tiling = t;
    ins.linear.format = c.format;
    if (c.format == Format::kE4m3) {
      codes = Guarded<uint8_t>(step.codes), scales = Guarded<float>(step.scales);
      ins.linear.input = codes.get(), ins.linear.input2 = scales.get();
    } else {
      high = Guarded<uint16_t>(step.high), low = Guarded<uint16_t>(step.low);
      ins.linear.input = high.get(), ins.linear.input2 = low.get();
    }
    ins.linear.parts = parts.get();
    ins.linear.uses = use(n);
    rig.step(1, rows);
    rig.run(ins);
    const std::vector<float> got = parts.read("linear");
    if (rows == kRows) eight = got;
    for (int unit = 0; unit < t.tiles * t.slices; ++unit) {
      const Pieces p = pieces_of(t, unit);
      for (int piece = 0; piece < p.count; ++piece) {
        const int block = p.first - unit + piece;
        const Share share = share_of(t, block);
        // The columns of k that this piece sums.
        const int first = std::max(share.begin - unit * t.pages, 0), last = std::min(share.end - unit * t.pages, t.pages);
        const int slice = unit / t.tiles, tile_index = unit % t.tiles, page = page_k(c.format);
        const int begin = (slice * t.pages + first) * page, end = (slice * t.pages + last) * page;
        for (int r = 0; r < rows; ++r)
          for (int i = 0; i < kTileRows; ++i) {
            const size_t at = (static_cast<size_t>(p.first) + piece) * kPartFloats + r * kTileRows + i;
            tally::that(mark_in(got[at]) == (breaks("linear.mark") ? 1u : mark(n)), "linear: a part of use %d has the other mark", n);
            if (rows < kRows) {
              if (with_mark(got[at], 0) != with_mark(eight[at], 0))
                tally::that(false, "linear %d x %d: row %d has other bits among %d rows", c.rows, c.k, r, rows);
              continue;
            }
            const int output = tile_index * kTileRows + i;
            if (output >= c.rows) {
              worst.look("padding", output, with_mark(got[at], 0), 0, 0);
              continue;
            }
            const double* w = m.value.data() + static_cast<size_t>(output) * c.k;
            const double* x = step.value.data() + static_cast<size_t>(breaks("linear.row") ? (r + 1) % kRows : r) * c.k;
            double sum = 0, magnitude = 0, cut = 0, largest = 0;
            for (int k = begin; k < end; ++k) {
              const double term = w[k] * x[breaks("linear.k") && k == begin ? k + 1 : k];
              sum += term;
              magnitude += std::fabs(term);
              largest = std::fmax(largest, std::fabs(term));
              if ((k + 1) % 32 == 0) cut += 32 * 0x1p-13 * largest, largest = 0;
            }
            if (breaks("linear.term") && output == 0 && r == 0) sum += integers ? 1 : 0;
            const int steps = (end - begin) / 32 + 12;
            const double bound = integers ? 0 : (c.format == Format::kE4m3 ? cut + gamma(steps) * magnitude : 2 * gamma((end - begin) + 12) * magnitude) + 0x1p-23 * std::fabs(sum);
            worst.look(integers ? "exact" : "random", output, with_mark(got[at], 0), sum, bound);
          }
      }
    }
  }
}

}  // namespace

void test_linear() {
  std::vector<Case> cases = {{64, 256, Format::kE4m3, 8}, {64, 128, Format::kBf16, 8}, {100, 512, Format::kE4m3, 3}, {200, 1536, Format::kBf16, 13}};
  if (!small) {
    cases.insert(cases.end(), {{63, 768, Format::kE4m3, 8},       // an odd number of pages, an unfilled tile
                               {65, 384, Format::kBf16, 8},
                               {192, 12288, Format::kE4m3, 24},   // two slices
                               {64, 6144, Format::kE4m3, 132},    // a page a block
                               {448, 1536, Format::kE4m3, 13},    // units shared by blocks
                               {128, 3072, Format::kBf16, 29},    // slices of BF16, shared
                               {3392, 768, Format::kE4m3, 132},   // more tiles than pages of a block
                               {320, 2048, Format::kBf16, 132}});
  }
  Worst exact("linear, exact"), random("linear, random");
  for (const Case& c : cases) {
    test_case(c, true, exact);
    test_case(c, false, random);
  }
}

}  // namespace kilotoken::ops
