// The router, and the expert pair with MXFP4 weights (stack_experts.cu looks at both storages as the model lays them out). The pair is looked at three ways: one-hot inputs (every place of every weight), small integers (exact
// sums), and random numbers within the bound of the tensor core (linear.cu).
#include <algorithm>
#include <set>

#include "core/e8m0.h"
#include "core/mxfp4.h"
#include "core/ties.h"
#include "kernels/pack/pack.cuh"
#include "rig.h"

namespace kilotoken::ops {

namespace {

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

}  // namespace

void test_topk() {
  Worst worst("top-k");
  struct Case {
    int experts, per_token;
    bool low, normalise;
    float scale;
    Format format;
    int k, blocks;
  };
  std::vector<Case> cases = {{16, 2, true, true, 1.0f, Format::kBf16, 768, 8}, {384, 8, true, true, 2.5f, Format::kBf16, 3072, 29}};
  if (!small) cases.insert(cases.end(), {{384, 8, false, false, 1.0f, Format::kBf16, 768, 13}, {512, 8, true, true, 1.0f, Format::kBf16, 1536, 132}, {70, 3, true, false, 0.5f, Format::kBf16, 256, 8}, {5, 5, false, true, 1.0f, Format::kBf16, 128, 8}});
  enum { kRandom, kBiased, kTies, kBiasTies, kNan, kAllNan, kKinds };
  for (const Case& c : cases) {
    const int tiles = (c.experts + kTileRows - 1) / kTileRows, low_tiles = c.low ? tiles : 0;
    const Tiling tiling = tile((tiles + low_tiles) * kTileRows, c.k, c.format, c.blocks);
    Rig rig(8);
    const Guarded<uint8_t> choice(sizeof(Choice), 0);
    int n = 0;
    for (int kind = 0; kind < kKinds; ++kind) {
      std::vector<float> bias(c.experts, 0.0f);
      if (kind == kBiased) bias = normals(c.experts, 0.3f);
      if (kind == kBiasTies) std::fill(bias.begin() + c.experts / 2, bias.end(), 0.25f);
      const Guarded<float> device_bias(bias);
      Choice eight{};
      const std::mt19937 begin = generator;
      for (int rows = kRows; rows >= 1; --rows, ++n) {
        if (small && rows < kRows && rows != 3) continue;
        generator = begin;
        const HandNorm norm(6, rows, 1e-6f);
        HandParts parts(tiling, rows, 1.0f, n);
        const int poor = c.experts / 3;  // the expert with NaN
        for (int r = 0; r < rows; ++r)
          for (int e = 0; e < c.experts; ++e) {
            if (kind == kTies || kind == kBiasTies) {  // groups of equal logits: many ties at every rank
              parts.put(r, e, static_cast<float>((e * 7 + r) % 3));
              if (c.low) parts.put(r, tiles * kTileRows + e, 0.25f);
            }
            if (kind == kAllNan || (kind == kNan && e == poor)) parts.put(r, e, std::nanf(""));
          }
        parts.send();
        Instruction ins = instruction(Op::kTopk);
        TopkArgs& a = ins.topk;
        a.parts = parts.args();
        a.norm = norm.args();
        a.bias = device_bias.get();
        a.choice = reinterpret_cast<Choice*>(choice.get());
        a.uses = use(n);
        a.experts = c.experts;
        a.per_token = c.per_token;
        a.tiles = tiles;
        a.low_tiles = low_tiles;
        a.normalise = c.normalise;
        a.scale = c.scale;
        rig.step(77, rows);
        rig.run(ins, kRows);
        const std::vector<uint8_t> raw = choice.read("top-k");
        Choice got;
        std::memcpy(&got, raw.data(), sizeof got);
        if (rows == kRows) eight = got;
        for (int r = 0; r < kRows; ++r) {
          bool marked = true;
          for (int w = 0; w < kMaskWords; ++w) marked = marked && got.masks[r][w] >> 31 == mark(n);
          for (int i = 0; i < kMaxExpertsPerToken; ++i) marked = marked && got.experts[r][i].x >> 31 == mark(n) && got.experts[r][i].y >> 31 == mark(n);
          tally::that(marked, "top-k: row %d of %d is not marked all over", r, rows);
          std::set<int> in_mask;
          for (int e = 0; e < kMaxExperts; ++e)
            if (got.masks[r][e / 16] >> (e % 16) & 1) in_mask.insert(e);
          if (r >= rows) {
            tally::that(in_mask.empty(), "top-k: a row that is not there chooses");
            continue;
          }
          for (int i = 0; i < c.per_token; ++i)
            tally::that((got.experts[r][i].x & 0x7fffffffu) == (eight.experts[r][i].x & 0x7fffffffu) && (got.experts[r][i].y & 0x7fffffffu) == (eight.experts[r][i].y & 0x7fffffffu),
                        "top-k: row %d chooses otherwise among %d rows", r, rows);
          // Probabilities: the logit's error times at most 1/4, an exponential, a division of two units.
          const double factor = norm.factor(r);
          std::vector<double> p(c.experts), slack(c.experts);
          std::vector<double> score(c.experts);
          for (int e = 0; e < c.experts; ++e) {
            HandParts::Sum s = parts.sum(r, e);
            if (c.low) {
              const HandParts::Sum low = parts.sum(r, tiles * kTileRows + e);
              s.value += breaks("topk.low") ? 0 : low.value, s.magnitude += low.magnitude, s.terms += low.terms;
            }
            const double logit = s.value * factor;
            p[e] = 1 / (1 + std::exp(-logit));
            slack[e] = p[e] * (gamma(s.terms + HandNorm::kSteps + 2) * s.magnitude * factor + (3 + 1.173 * std::fabs(logit) + 3) * 0x1p-23);
            score[e] = p[e] + bias[e];
          }
          std::vector<int> chosen(c.per_token);
          // A NaN ranks behind every number; equal ones by id.
          std::vector<int> order(c.experts);
          for (int e = 0; e < c.experts; ++e) order[e] = e;
          const bool high_id = breaks("topk.ties");
          std::stable_sort(order.begin(), order.end(), [&](int x, int y) {
            const bool tie = std::fabs(score[x] - score[y]) < 1e-12;
            if (tie && (kind == kTies || kind == kBiasTies)) return high_id ? x > y : x < y;
            return ranks_before(score[x], x, score[y], y);
          });
          std::copy_n(order.begin(), c.per_token, chosen.begin());
          if (breaks("topk.bias") && kind == kBiased) {
            std::stable_sort(order.begin(), order.end(), [&](int x, int y) { return ranks_before(p[x], x, p[y], y); });
            std::copy_n(order.begin(), c.per_token, chosen.begin());
          }
          double total = 0, total_slack = 0;
          for (const int e : chosen) total += p[e], total_slack += slack[e];
          std::set<int> expected(chosen.begin(), chosen.end());
          const bool numbers = kind != kAllNan;
          // Which are chosen is certain only where the last one in and the first one out lie further apart than their errors.
          if (kind == kRandom || kind == kBiased || kind == kNan) {
            const double last = score[order[c.per_token - 1]];
            if (c.per_token < c.experts) {
              const int next = order[c.per_token];
              if (score[next] == score[next] && last - score[next] <= slack[next] + slack[order[c.per_token - 1]] + 0x1p-22) continue;
            }
          }
          if (kind == kNan && breaks("topk.nan")) expected.erase(expected.begin()), expected.insert(poor);
          tally::that(in_mask == expected, "top-k: %d experts, kind %d, row %d: other experts are chosen", c.experts, kind, r);
          if (!numbers) continue;
          for (int i = 0; i < c.per_token; ++i) {
            const int id = static_cast<int>(got.experts[r][i].x & 0x7fffffffu);
            tally::that(in_mask.count(id) == 1, "top-k: an expert that the mask does not name");
            if (in_mask.count(id) == 0 || !(total == total)) continue;
            const double divisor = c.normalise && !breaks("topk.normalise") ? total + 1e-20 : 1.0;
            const double weight = p[id] / divisor * c.scale;
            const double bound = weight * (slack[id] / p[id] + (c.normalise ? total_slack / total + gamma(10) : 0) + gamma(6));
            worst.look("weight", i, float_of(got.experts[r][i].y & 0x7fffffffu), weight, bound);
          }
        }
      }
      if (small && kind == kTies) kind = kNan - 1;
    }
  }
}

namespace {

// Experts as stored, and as numbers.
struct Stored {
  Guarded<uint8_t> codes, scales;
  std::vector<uint8_t> host_codes, host_scales;
  int rows, cols;
  Matrix matrix() const { return {Storage::kMxfp4, codes.get(), scales.get(), rows, cols, 0}; }
  double at(size_t row, int k) const {
    const size_t i = row * cols + k;
    return static_cast<double>(e2m1_to_float(mxfp4_nibble(host_codes.data() + i / 32 * 16, static_cast<int>(i % 32)))) * e8m0_to_float(host_scales[i / 32]);
  }
};

Stored make_experts(int rows, int cols, int lowest_scale, int scales) {
  Stored m;
  m.rows = rows, m.cols = cols;
  m.host_codes.resize(static_cast<size_t>(rows) * cols / 2);
  m.host_scales.resize(static_cast<size_t>(rows) * cols / 32);
  for (uint8_t& code : m.host_codes) code = static_cast<uint8_t>(generator());
  for (uint8_t& scale : m.host_scales) scale = static_cast<uint8_t>(lowest_scale + below(scales));
  m.codes = Guarded<uint8_t>(m.host_codes);
  m.scales = Guarded<uint8_t>(m.host_scales);
  return m;
}

// Choices by hand: each row of `rows` some experts, the rest of the rows nothing; ids in ascending order are ranks.
struct HandChoice {
  Choice choice;
  std::vector<std::vector<int>> of;          // by row
  std::vector<std::vector<float>> weight;
  std::vector<int> listed;
  Guarded<uint8_t> device;
  HandChoice(int experts, int per_token, int rows, int n, bool everything, bool powers = false) {
    std::memset(&choice, 0, sizeof choice);
    std::set<int> any;
    for (int r = 0; r < kRows; ++r) {
      std::set<int> mine;
      while (static_cast<int>(mine.size()) < std::min(per_token, experts)) mine.insert(everything ? static_cast<int>((mine.size() + r * per_token) % experts) : below(experts));
      std::vector<int> ids(mine.begin(), mine.end());
      std::shuffle(ids.begin(), ids.end(), generator);
      std::vector<float> weights;
      for (size_t i = 0; i < ids.size(); ++i) weights.push_back(powers ? std::exp2(static_cast<float>(below(3))) : 0.01f * static_cast<float>(1 + below(100)));
      if (r < rows) any.insert(ids.begin(), ids.end());
      of.push_back(ids);
      weight.push_back(weights);
      for (int w = 0; w < kMaskWords; ++w) choice.masks[r][w] = mark(n) << 31;
      for (int i = 0; i < kMaxExpertsPerToken; ++i) {
        choice.experts[r][i] = make_uint2(mark(n) << 31, mark(n) << 31);
        if (r >= rows || i >= static_cast<int>(ids.size())) continue;
        choice.masks[r][ids[i] / 16] |= 1u << (ids[i] % 16);
        choice.experts[r][i] = make_uint2(static_cast<uint32_t>(ids[i]) | mark(n) << 31, bits_of(weights[i]) | mark(n) << 31);
      }
    }
    listed.assign(any.begin(), any.end());
    std::vector<uint8_t> raw(sizeof choice);
    std::memcpy(raw.data(), &choice, sizeof choice);
    device = Guarded<uint8_t>(raw);
  }
  float of_row(int row, int expert) const {
    for (size_t i = 0; i < of[row].size(); ++i)
      if (of[row][i] == expert) return weight[row][i];
    return 0;
  }
  const Choice* get() const { return reinterpret_cast<const Choice*>(device.get()); }
};

struct UpCase {
  int experts, per_token, hidden, width, blocks;
};

}  // namespace

void test_experts_up() {
  Worst one_hot("experts up, one-hot"), random("experts up, random");
  std::vector<UpCase> cases = {{16, 2, 256, 64, 8}, {16, 2, 768, 128, 24}};
  // Tiles in one segment, and in three; no block has more pages than the ring. (racecheck does not follow a place's second use: one lane of a warp tells the fetching warp, behind
  // __syncwarp, that all have read. With all lanes telling it, it finds nothing.)
  if (!small) cases.insert(cases.end(), {{384, 8, 512, 64, 132}, {16, 2, 1536, 192, 13}, {20, 3, 768, 128, 24}, {64, 8, 6144, 128, 132}, {64, 8, 6144, 192, 131}});
  for (const UpCase& c : cases) {
    const int page_k_ = c.hidden % 512 == 0 ? 512 : 256, tiles = c.width / kUpperHalf, pages_per_tile = c.hidden / page_k_;
    Rig rig(c.blocks);
    const Stored gate = make_experts(c.experts * c.width, c.hidden, 122, 6), up = make_experts(c.experts * c.width, c.hidden, 122, 6);
    const Guarded<uint8_t> pages(static_cast<size_t>(c.experts) * tiles * pages_per_tile * up_page_bytes(Storage::kMxfp4, page_k_));
    const Guarded<float> pieces(static_cast<size_t>(c.blocks) * kMostCut * kPartFloats, 0);
    Device<uint32_t> refused(1);
    check(pack_up(pages.get(), gate.matrix(), up.matrix(), c.experts, page_k_, refused.get(), nullptr), "packing");
    check(cudaDeviceSynchronize(), "packing");
    pages.read("packing experts");
    const int tries = small ? 3 : c.hidden <= 512 ? c.hidden / kRows : 24;
    for (int n = 0; n < tries + kRows; ++n) {
      const bool hot = n < tries;
      const int rows = hot ? kRows : kRows - (n - tries);
      static std::mt19937 begin;
      if (n == tries) begin = generator;
      if (n > tries) generator = begin;
      const HandChoice choice(c.experts, c.per_token, rows, n, hot && n % 3 == 1);
      std::vector<uint8_t> codes(static_cast<size_t>(kRows) * c.hidden, 0);
      std::vector<float> scales(static_cast<size_t>(c.hidden) / kQuantGroup * kRows, 1.0f);
      std::vector<double> value(static_cast<size_t>(kRows) * c.hidden, 0.0);
      std::vector<float> squares(static_cast<size_t>(c.hidden) / kQuantGroup * kRows, static_cast<float>(kQuantGroup));  // a factor of one
      for (int r = 0; r < kRows; ++r) {
        if (hot) {
          const int k = (n * kRows + r) * (c.hidden <= 512 ? 1 : 37) % c.hidden;
          codes[e4m3_input_offset(r, k)] = 0x38;
          value[static_cast<size_t>(r) * c.hidden + k] = 1;
          continue;
        }
        for (int k = 0; k < c.hidden; ++k) {
          uint8_t code = static_cast<uint8_t>(generator() & 0xbf);  // up to 2^1
          if ((code & 0x7f) == 0x7f) code ^= 1;
          float& scale = scales[static_cast<size_t>(k / kQuantGroup) * kRows + r];
          if (k % kQuantGroup == 0) scale = 0.002f * static_cast<float>(1 + below(40));
          codes[e4m3_input_offset(r, k)] = r < rows ? code : 0x7f;
          value[static_cast<size_t>(r) * c.hidden + k] = static_cast<double>(e4m3_to_float(code)) * scale;
        }
        if (r >= rows)
          for (int g = 0; g < c.hidden / kQuantGroup; ++g) scales[static_cast<size_t>(g) * kRows + r] = squares[static_cast<size_t>(g) * kRows + r] = std::nanf("");
      }
      const Guarded<uint8_t> device_codes(codes);
      const Guarded<float> device_scales(scales), device_squares(squares);
      const Guarded<uint8_t> h(static_cast<size_t>(c.width / kDownK) * kMaxStepExperts * kDownInputBytes);
      Instruction ins = instruction(Op::kExpertsUp);
      ExpertsUpArgs& a = ins.up;
      a.storage = Storage::kMxfp4;
      a.pages = pages.get();
      a.choice = choice.get();
      a.uses = use(n);
      a.codes = device_codes.get();
      a.scales = device_scales.get();
      a.norm = {device_squares.get(), c.hidden / kQuantGroup, static_cast<float>(c.hidden), 0.0f};
      a.h = h.get();
      a.pieces = pieces.get();
      a.pieces_uses = use(n);
      a.experts = c.experts;
      a.per_token = c.per_token;
      a.tiles = tiles;
      a.segments = segments_of(pages_per_tile);
      a.pages_per_segment = pages_per_tile / a.segments;
      a.by_segments = divisor(static_cast<uint32_t>(a.segments));
      a.page_k = page_k_;
      a.by_tiles = divisor(static_cast<uint32_t>(tiles));
      a.by_blocks = divisor(static_cast<uint32_t>(c.blocks));
      a.mixture_layer = 1;
      rig.step(3, rows);
      rig.run(ins);
      const std::vector<uint8_t> got = h.read("experts up");
      tally::that(rig.session.touched[1] == choice.listed.size(), "experts up: %u experts counted, %zu chosen", rig.session.touched[1], choice.listed.size());
      for (size_t rank = 0; rank < choice.listed.size(); ++rank) {
        const int expert = choice.listed[breaks("up.rank") ? (rank + 1) % choice.listed.size() : rank];
        for (int r = 0; r < rows; ++r) {
          const double weight = breaks("up.weight") && r > 0 ? choice.of_row(r - 1, expert) : choice.of_row(r, expert);
          const bool chosen = choice.of_row(r, expert) != 0;
          for (int first = 0; first < c.width; first += kUpperHalf) {
            const uint8_t* slice = got.data() + (static_cast<size_t>(first / kDownK) * kMaxStepExperts + rank) * kDownInputBytes;
            float scale;
            std::memcpy(&scale, slice + kDownK * kRows + (first % kDownK / kUpperHalf * kRows + r) * 4, 4);
            if (!chosen) {  // what a row did not choose must weigh nothing and be a number
              if (!breaks("up.weight")) one_hot.look("not chosen", rank, scale, 0, 0);
              for (int i = 0; i < kUpperHalf; ++i)
                tally::that((slice[down_input_offset(r, first % kDownK + i)] & 0x7f) != 0x7f, "experts up: a NaN in h of a row that is there");
              continue;
            }
            double amax = 0;
            double expected[kUpperHalf], bound[kUpperHalf];
            for (int i = 0; i < kUpperHalf; ++i) {
              const size_t row = static_cast<size_t>(expert) * c.width + first + i;
              double g = 0, u = 0, dg = 0, du = 0;
              if (hot) {
                const int k = (n * kRows + r) * (c.hidden <= 512 ? 1 : 37) % c.hidden, of = breaks("up.k") ? k ^ 1 : k;
                g = gate.at(row, of), u = up.at(breaks("up.row") ? row ^ 1 : row, of);
                dg = std::fabs(g) * gamma(24), du = std::fabs(u) * gamma(24);
              } else {
                double largest_g = 0, largest_u = 0, magnitude_g = 0, magnitude_u = 0;
                for (int k = 0; k < c.hidden; ++k) {
                  const double x = value[static_cast<size_t>(r) * c.hidden + k], tg = gate.at(row, k) * x, tu = up.at(row, k) * x;
                  g += tg, u += tu;
                  magnitude_g += std::fabs(tg), magnitude_u += std::fabs(tu);
                  largest_g = std::fmax(largest_g, std::fabs(tg)), largest_u = std::fmax(largest_u, std::fabs(tu));
                  if (k % 32 == 31) dg += 32 * 0x1p-13 * largest_g, du += 32 * 0x1p-13 * largest_u, largest_g = largest_u = 0;
                }
                dg += gamma(c.hidden / 32 + 24) * magnitude_g, du += gamma(c.hidden / 32 + 24) * magnitude_u;
              }
              const double s = 1 / (1 + std::exp(-g));
              expected[i] = g * s * u;
              bound[i] = 1.1 * (std::fabs(u) + du) * dg + (std::fabs(g * s)) * du + std::fabs(expected[i]) * (7 + 1.173 * std::fabs(g)) * 0x1p-23;
              amax = std::fmax(amax, std::fabs(expected[i]));
            }
            Worst& worst = hot ? one_hot : random;
            const double step = amax / 448;
            for (int i = 0; i < kUpperHalf; ++i) {
              const double x = static_cast<double>(e4m3_to_float(slice[down_input_offset(r, first % kDownK + i)])) * scale / 64;
              worst.look("h", first + i, x, expected[i] * weight,
                         weight * (bound[i] + step * e4m3_half_step(expected[i] / (step > 0 ? step : 1)) * (1 + 0x1p-10) + amax * 0x1p-20) + 1e-30);
            }
          }
        }
      }
      if (!hot) {  // rows alone: codes and scales of a row and expert
        static std::vector<uint8_t> eight;
        static std::vector<int> listed;
        if (n == tries) eight = got, listed = choice.listed;
        for (size_t rank = 0; rank < choice.listed.size(); ++rank) {
          const size_t as = static_cast<size_t>(std::find(listed.begin(), listed.end(), choice.listed[rank]) - listed.begin());
          for (int slice = 0; slice < c.width / kDownK; ++slice) {
            const uint8_t *x = got.data() + (static_cast<size_t>(slice) * kMaxStepExperts + rank) * kDownInputBytes,
                          *y = eight.data() + (static_cast<size_t>(slice) * kMaxStepExperts + as) * kDownInputBytes;
            for (int r = 0; r < rows; ++r) {
              bool same = std::memcmp(x + kDownK * kRows + r * 4, y + kDownK * kRows + r * 4, 4) == 0 &&
                          std::memcmp(x + kDownK * kRows + (kRows + r) * 4, y + kDownK * kRows + (kRows + r) * 4, 4) == 0;
              for (int k = 0; k < kDownK; ++k) same = same && x[down_input_offset(r, k)] == y[down_input_offset(r, k)];
              if (!same) tally::that(false, "experts up: row %d has other bits among %d rows", r, rows);
            }
          }
        }
      }
    }
  }
}

void test_experts_down() {
  Worst exact("experts down, exact"), random("experts down, random");
  struct Case {
    int experts, per_token, hidden, width, blocks;
  };
  std::vector<Case> cases = {{16, 2, 256, 64, 8}, {16, 4, 768, 192, 13}};
  if (!small) cases.insert(cases.end(), {{16, 2, 768, 192, 8}, {16, 2, 768, 192, 18}, {384, 8, 512, 128, 132}, {64, 8, 6144, 64, 132}});
  for (const Case& c : cases) {
    const int hidden_tiles = c.hidden / kTileRows, slices = c.width / kDownK, units = hidden_tiles * slices;
    int each = (units + c.blocks - 1) / c.blocks;  // as the model deals them out
    while (hidden_tiles % each != 0 || (each > kMaxDownUnits && each % kMaxDownUnits != 0)) ++each;
    Rig rig(c.blocks);
    const Stored down = make_experts(c.experts * c.hidden, c.width, 126, 3);
    const Guarded<uint8_t> pages(static_cast<size_t>(c.experts) * units * down_unit_bytes(Storage::kMxfp4));
    Device<uint32_t> refused(1);
    check(pack_down(pages.get(), down.matrix(), c.experts, refused.get(), nullptr), "packing");
    check(cudaDeviceSynchronize(), "packing");
    pages.read("packing experts");
    const Guarded<float> parts(static_cast<size_t>(units) * kPartFloats, 0);
    int n = 0;
    for (const bool integers : {true, false}) {
      std::vector<float> eight;
      const std::mt19937 begin = generator;
      for (int rows = kRows; rows >= 1; --rows, ++n) {
        if (small && rows < kRows && rows != 2) continue;
        generator = begin;
        const HandChoice choice(c.experts, c.per_token, rows, n, !integers, integers);
        std::vector<uint8_t> h(static_cast<size_t>(slices) * kMaxStepExperts * kDownInputBytes, 0xff);  // ranks that nobody has stay NaN
        // h of a row and expert comes from a generator of its own, whatever rank the expert has.
        std::vector<std::vector<double>> value(static_cast<size_t>(kRows) * c.experts);
        for (size_t rank = 0; rank < choice.listed.size(); ++rank)
          for (int r = 0; r < kRows; ++r) {
            const int expert = choice.listed[rank];
            std::mt19937 own(static_cast<uint32_t>(expert * 64 + r + (integers ? 1 : 0)));
            std::vector<double>& v = value[static_cast<size_t>(r) * c.experts + expert];
            v.resize(c.width);
            const float weight = choice.of_row(r, expert);
            float scale = 0;
            for (int k = 0; k < c.width; ++k) {
              static constexpr uint8_t kIntegers[] = {0x00, 0x38, 0xb8, 0x40, 0xc0};
              uint8_t code = integers ? kIntegers[own() % 5] : static_cast<uint8_t>(own());
              if ((code & 0x7f) == 0x7f) code ^= 1;
              if (k % kUpperHalf == 0) scale = 64.0f * (integers ? 1.0f : 0.01f * static_cast<float>(1 + own() % 50)) * weight;
              uint8_t* slice = h.data() + (static_cast<size_t>(k / kDownK) * kMaxStepExperts + rank) * kDownInputBytes;
              slice[down_input_offset(r, k % kDownK)] = r < rows ? code : 0x7f;
              const float stored = r < rows ? scale : 0.0f;
              std::memcpy(slice + kDownK * kRows + (k % kDownK / kUpperHalf * kRows + r) * 4, &stored, 4);
              v[k] = static_cast<double>(e4m3_to_float(code)) * scale / 64;
            }
          }
        const Guarded<uint8_t> device_h(h);
        Instruction ins = instruction(Op::kExpertsDown);
        ExpertsDownArgs& a = ins.down;
        a.storage = Storage::kMxfp4;
        a.pages = pages.get();
        a.choice = choice.get();
        a.choice_uses = use(n);
        a.h = device_h.get();
        a.parts = parts.get();
        a.uses = use(n);
        a.experts = c.experts;
        a.units = units;
        a.tiles = hidden_tiles;
        a.by_tiles = divisor(static_cast<uint32_t>(hidden_tiles));
        a.up_tiles = c.width / kUpperHalf;
        a.by_up_tiles = divisor(static_cast<uint32_t>(a.up_tiles));
        a.units_per_pass = std::min(each, kMaxDownUnits);
        a.passes = each / a.units_per_pass;
        a.experts_per_page = down_experts_per_page(Storage::kMxfp4, a.units_per_pass);
        rig.step(3, rows);
        rig.run(ins);
        const std::vector<float> got = parts.read("experts down");
        if (rows == kRows) eight = got;
        for (int unit = 0; unit < units; ++unit)
          for (int r = 0; r < rows; ++r)
            for (int i = 0; i < kTileRows; ++i) {
              const size_t at = static_cast<size_t>(unit) * kPartFloats + r * kTileRows + i;
              if (mark_in(got[at]) != mark(n)) tally::that(false, "experts down: a mark is missing");
              if (rows < kRows) {
                if (with_mark(got[at], 0) != with_mark(eight[at], 0)) tally::that(false, "experts down: row %d has other bits among %d rows", r, rows);
                continue;
              }
              if (!integers && i % 5 != 0 && c.experts > 64) continue;
              const int output = unit % hidden_tiles * kTileRows + i, first = unit / hidden_tiles * kDownK;
              double sum = 0, magnitude = 0, cut = 0;
              for (const int expert : choice.of[r]) {
                if (breaks("down.expert") && expert == choice.of[r][0]) continue;
                const std::vector<double>& v = value[static_cast<size_t>(r) * c.experts + expert];
                double largest = 0;
                for (int k = first; k < first + kDownK; ++k) {
                  const double term = v[breaks("down.k") ? k ^ 16 : k] * down.at(static_cast<size_t>(expert) * c.hidden + (breaks("down.output") ? output ^ 8 : output), k);
                  sum += term, magnitude += std::fabs(term), largest = std::fmax(largest, std::fabs(term));
                  if (k % 32 == 31) cut += 32 * 0x1p-13 * largest, largest = 0;
                }
              }
              const double bound = integers ? 0 : cut + gamma(static_cast<double>(choice.listed.size()) + 12) * magnitude + 0x1p-23 * std::fabs(sum);
              (integers ? exact : random).look("part", output, with_mark(got[at], 0), sum, bound);
            }
      }
    }
  }
}

}  // namespace kilotoken::ops
