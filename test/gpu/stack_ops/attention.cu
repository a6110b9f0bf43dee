// Projections to queries and cache, attention over windows, over chunks, and over the draft's block. The caches hold NaN from the first position that no row of the
// step has reached; keys and values of the step itself are taken from the cache as the device left them, once they have been looked at.
#include "rig.h"

namespace kilotoken::ops {

namespace {

constexpr int kPlaces = 2048 + kRows;  // of a cache

const std::vector<float>& turn_table() {
  static const std::vector<float> table = [] {
    std::vector<float> t(static_cast<size_t>(kPlaces) * kRotary);
    for (int p = 0; p < kPlaces; ++p)
      for (int i = 0; i < kRotary / 2; ++i) {
        const double angle = p * std::pow(10000.0, -2.0 * i / kRotary);
        t[(static_cast<size_t>(p) * (kRotary / 2) + i) * 2] = static_cast<float>(std::cos(angle));
        t[(static_cast<size_t>(p) * (kRotary / 2) + i) * 2 + 1] = static_cast<float>(std::sin(angle));
      }
    return t;
  }();
  return table;
}

struct Vector {
  std::vector<double> value, bound;
};

// A head's row of a projection: sums times the norm's factor, per-head norm, RoPE on the first 64 dimensions, value scale. Roundings of a dimension: the sums,
// the factor, its product, the scale's product; the per-head norm adds a sum of squares (8 roundings and those of its terms), a division and a root, halved, and two
// products; RoPE three.
struct Head {
  int first;          // output row of the projection
  int dimensions;
  bool turns;
  const float* weight;  // per-head norm, or null
  double scale;         // of values
};

Vector project(const HandParts& parts, double factor, int row, int position, const Head& h, float epsilon) {
  Vector out{std::vector<double>(h.dimensions), std::vector<double>(h.dimensions)};
  double squares = 0, inherited = 0;
  for (int d = 0; d < h.dimensions; ++d) {
    const HandParts::Sum s = parts.sum(row, h.first + d);
    out.value[d] = s.value * factor * h.scale;
    out.bound[d] = gamma(s.terms + HandNorm::kSteps + 2) * s.magnitude * factor * std::fabs(h.scale);
    squares += out.value[d] * out.value[d];
    inherited += 2 * std::fabs(out.value[d]) * out.bound[d];
  }
  if (h.weight != nullptr) {
    const double mean = squares / h.dimensions + epsilon, scale = 1 / std::sqrt(mean);
    const double relative = 0.5 * (inherited / squares + gamma(12)) + gamma(8);
    for (int d = 0; d < h.dimensions; ++d) {
      out.value[d] *= scale * h.weight[d];
      out.bound[d] = out.bound[d] * scale * std::fabs(h.weight[d]) + std::fabs(out.value[d]) * relative;
    }
  }
  if (h.turns) {
    const Vector before = out;
    const float* t = turn_table().data() + static_cast<size_t>(position) * kRotary;
    for (int i = 0; i < kRotary / 2; ++i) {
      const double c = t[2 * i], s = t[2 * i + 1], x = before.value[i], y = before.value[i + kRotary / 2];
      out.value[i] = x * c - y * s;
      out.value[i + kRotary / 2] = y * c + x * s;
      const double inherit_x = before.bound[i] * std::fabs(c) + before.bound[i + kRotary / 2] * std::fabs(s);
      const double inherit_y = before.bound[i + kRotary / 2] * std::fabs(c) + before.bound[i] * std::fabs(s);
      out.bound[i] = inherit_x + gamma(3) * (std::fabs(x * c) + std::fabs(y * s));
      out.bound[i + kRotary / 2] = inherit_y + gamma(3) * (std::fabs(y * c) + std::fabs(x * s));
    }
  }
  return out;
}

// Element `d` of a head's row of keys or values, from the head's first place on: as attention over the cache has them, or in order as layers with a short window do.
size_t element(int position, int dimensions, int d) { return static_cast<size_t>(position) * dimensions + cache_element(position, d); }
size_t in_order(int position, int dimensions, int d) { return static_cast<size_t>(position) * dimensions + d; }

// Queries as the device reads them, from [8][heads][dimensions]: two BF16 parts a number; what belongs to no head is NaN.
std::vector<uint16_t> query_parts(const std::vector<float>& q, int q_heads, int kv_heads, int head_dim) {
  std::vector<uint16_t> out(query_elements(q_heads, kv_heads, head_dim), 0xffff);
  const int shared_by = q_heads / kv_heads, groups = groups_of_kv(q_heads, kv_heads);
  for (int r = 0; r < kRows; ++r)
    for (int head = 0; head < q_heads; ++head)
      for (int d = 0; d < head_dim; ++d) {
        const int group = head / shared_by * groups + head % shared_by / kGroupHeads, of_group = head % shared_by % kGroupHeads;
        const float x = q[(static_cast<size_t>(r) * q_heads + head) * head_dim + d];
        const uint16_t high = float_to_bf16(x);
        out[query_index(group, 0, r, of_group, d & ~1, head_dim) + d % 2] = high;
        out[query_index(group, 1, r, of_group, d & ~1, head_dim) + d % 2] = float_to_bf16(x - bf16_to_float(high));
      }
  return out;
}

void look_bf16(Worst& worst, const char* of, size_t i, uint16_t code, double expected, double bound) {
  worst.look(of, i, bf16_to_float(code), expected, bound + bf16_half_step(std::fabs(expected) + bound));
}

// A cache of BF16: numbers before `valid`, NaN from there on.
std::vector<uint16_t> make_cache(int sets, int dimensions, int valid) {
  std::vector<uint16_t> cache(static_cast<size_t>(sets) * kPlaces * dimensions, 0xffff);
  for (int s = 0; s < sets; ++s) {
    const std::vector<float> x = normals(static_cast<size_t>(valid) * dimensions);
    for (size_t i = 0; i < x.size(); ++i) cache[static_cast<size_t>(s) * kPlaces * dimensions + i] = float_to_bf16(x[i]);
  }
  return cache;
}

// Only the step's places of a cache have changed.
void check_untouched(const char* what, const std::vector<uint16_t>& before, const std::vector<uint16_t>& after, int dimensions, int start, int rows) {
  bool same = true;
  for (size_t i = 0; i < before.size(); ++i) {
    const int position = static_cast<int>(i / dimensions % kPlaces);
    if (position < start || position >= start + rows) same = same && before[i] == after[i];
  }
  tally::that(same, "%s: start %d, %d rows: the cache is written at other places", what, start, rows);
}

// Attention of one row and head in double, with its bound. Scores: |q k| terms; the split of q leaves 2^-16, sums of products are cut (2 gamma), the errors of q and the
// root enter as they are. A weight exp(s - top) then is off by exp(2 ds) - 1, by its exponential (3 + 1.173 |s - top| units), by its split (2^-16) and by one more such
// exponential for each rescaling (`rescalings`); numerator and denominator each take that error, and the sum over keys 2 gamma(keys + 24).
struct Attention {
  const uint16_t *keys, *values;  // of the head's group, [place][head_dim], [place][128]
  int head_dim, first, end;       // keys that the row sees
  bool has_sink;
  double sink;
  int rescalings;
  size_t (*element)(int, int, int);
};

Vector attention(const Vector& q, const Attention& a) {
  const int n = a.end - a.first;
  std::vector<double> score(n), slack(n);
  double top = a.has_sink ? a.sink : -INFINITY;
  const double scale = 1 / std::sqrt(static_cast<double>(a.head_dim));
  for (int i = 0; i < n; ++i) {
    double sum = 0, bound = 0, magnitude = 0;
    for (int d = 0; d < a.head_dim; ++d) {
      const double k = bf16_to_float(a.keys[a.element(a.first + i, a.head_dim, d)]);
      sum += q.value[d] * k;
      magnitude += std::fabs(q.value[d] * k);
      bound += q.bound[d] * std::fabs(k);
    }
    score[i] = sum * scale;
    slack[i] = (bound + magnitude * (0x1p-16 + 2 * gamma(a.head_dim + 8))) * scale + std::fabs(score[i]) * 0x1p-22;
    top = std::fmax(top, score[i]);
  }
  double worst_slack = 0;
  for (const double s : slack) worst_slack = std::fmax(worst_slack, s);
  double total = a.has_sink ? std::exp(a.sink - top) : 0, total_error = a.has_sink ? total * (3 + 1.173 * (top - a.sink)) * 0x1p-23 : 0;
  Vector out{std::vector<double>(kValueDim), std::vector<double>(kValueDim)};
  std::vector<double> magnitude(kValueDim);
  for (int i = 0; i < n; ++i) {
    const double w = std::exp(score[i] - top);
    const double relative = std::expm1(slack[i] + worst_slack) + (3 + 1.173 * (top - score[i])) * 0x1p-23 * (1 + a.rescalings) + 0x1p-16;
    total += w;
    total_error += w * relative;
    for (int d = 0; d < kValueDim; ++d) {
      const double v = bf16_to_float(a.values[a.element(a.first + i, kValueDim, d)]);
      out.value[d] += w * v;
      magnitude[d] += std::fabs(w * v);
      out.bound[d] += w * std::fabs(v) * relative;
    }
  }
  for (int d = 0; d < kValueDim; ++d) {
    out.value[d] /= total;
    out.bound[d] = (out.bound[d] + magnitude[d] * 2 * gamma(n + 24 + 3 * a.rescalings)) / total +
                   std::fabs(out.value[d]) * (total_error / total + gamma(n + 24));
  }
  return out;
}

}  // namespace

void test_qkv() {
  Worst worst("qkv");
  struct Case {
    int q_heads, kv_heads, head_dim, sets;
    bool norms;
    Tiling tiling;
    double value_scale;
  };
  std::vector<Case> cases;
  const auto add = [&](int q, int kv, int dim, int sets, bool norms, int k, Format format, int blocks, double value_scale) {
    cases.push_back({q, kv, dim, sets, norms, tile(sets * (q * dim + kv * (dim + kValueDim)), k, format, blocks), value_scale});
  };
  add(4, 2, 192, 1, false, 512, Format::kE4m3, 13, 0.5);
  add(4, 1, 128, 1, true, 768, Format::kBf16, 24, 1.0);
  if (!small) {
    add(8, 8, 192, 1, true, 12288, Format::kE4m3, 132, 0.7);
    add(0, 2, 128, 3, true, 3072, Format::kBf16, 40, 1.0);  // the draft's context: keys and values of all its layers
    add(0, 1, 192, 5, false, 256, Format::kE4m3, 16, 2.0);
  }
  constexpr float kEpsilon = 1e-5f;
  int n = 0;
  for (const Case& c : cases) {
    Rig rig(9);
    const std::vector<float> q_norm = normals(static_cast<size_t>(c.sets) * c.head_dim), k_norm = normals(static_cast<size_t>(c.sets) * c.head_dim);
    const Guarded<float> device_q_norm(q_norm), device_k_norm(k_norm), turns(turn_table());
    for (const int start : small ? std::vector<int>{17} : std::vector<int>{0, 17, 2040}) {
      std::vector<uint16_t> q_eight, keys_eight, values_eight;
      const std::mt19937 begin = generator;
      for (int rows = kRows; rows >= 1; --rows, ++n) {
        generator = begin;
        const HandNorm norm(c.tiling.slices == 1 ? 2 : 48, rows, 1e-6f);
        const HandParts parts(c.tiling, rows, 1.0f, n);
        const size_t key_stride = static_cast<size_t>(c.kv_heads) * kPlaces * c.head_dim, value_stride = static_cast<size_t>(c.kv_heads) * kPlaces * kValueDim;
        const Guarded<uint16_t> keys(key_stride * c.sets), values(value_stride * c.sets);
        const Guarded<uint16_t> q(query_elements(std::max(c.q_heads, 1), c.q_heads > 0 ? c.kv_heads : 1, c.head_dim));
        const std::vector<uint16_t> keys_before(keys.size(), 0xffff), values_before(values.size(), 0xffff);
        Instruction ins = instruction(Op::kQkv);
        QkvArgs& a = ins.qkv;
        a.parts = parts.args();
        a.norm = norm.args();
        a.q = c.q_heads > 0 ? q.get() : nullptr;
        a.keys = keys.get();
        a.values = values.get();
        a.q_norm = c.norms ? device_q_norm.get() : nullptr;
        a.k_norm = c.norms ? device_k_norm.get() : nullptr;
        a.turns = turns.get();
        a.value_scale = static_cast<float>(c.value_scale);
        a.head_epsilon = kEpsilon;
        a.q_heads = c.q_heads;
        a.kv_heads = c.kv_heads;
        a.head_dim = c.head_dim;
        a.sets = c.sets;
        a.max_context = kPlaces;
        a.key_set_stride = key_stride;
        a.value_set_stride = value_stride;
        rig.step(start, rows);
        rig.run(ins);
        const std::vector<uint16_t> got_q = q.read("qkv");
        const std::vector<uint16_t> got_keys = keys.read("qkv"), got_values = values.read("qkv");
        check_untouched("qkv", keys_before, got_keys, c.head_dim, start, rows);
        check_untouched("qkv", values_before, got_values, kValueDim, start, rows);
        if (rows == kRows) q_eight = got_q, keys_eight = got_keys, values_eight = got_values;
        std::vector<bool> written(got_q.size());
        for (int r = 0; r < rows; ++r) {
          const double factor = norm.factor(r);
          const int position = start + r + (breaks("qkv.position") ? 1 : 0);
          const int set_rows = c.q_heads * c.head_dim + c.kv_heads * (c.head_dim + kValueDim);
          for (int set = 0; set < c.sets; ++set)
            for (int head = 0; head < c.q_heads + 2 * c.kv_heads; ++head) {
              const bool is_q = head < c.q_heads, is_value = head >= c.q_heads + c.kv_heads;
              const int kv = is_value ? head - c.q_heads - c.kv_heads : head - c.q_heads;
              Head h{set * set_rows + (is_value ? (c.q_heads + c.kv_heads) * c.head_dim + kv * kValueDim : head * c.head_dim), is_value ? kValueDim : c.head_dim,
                     !is_value, !c.norms || is_value ? nullptr : (is_q != breaks("qkv.norm") ? q_norm : k_norm).data() + set * c.head_dim,
                     is_value && !breaks("qkv.value_scale") ? c.value_scale : 1.0};
              const Vector expected = project(parts, factor, r, std::min(position, kPlaces - 1), h, kEpsilon);
              const int in_cache = start + r;
              for (int d = 0; d < h.dimensions; ++d) {
                if (is_q) {
                  const int shared_by = c.q_heads / c.kv_heads, group = head / shared_by * groups_of_kv(c.q_heads, c.kv_heads) + head % shared_by / kGroupHeads;
                  const auto part = [&](int p) { return query_index(group, p, r, head % shared_by % kGroupHeads, d & ~1, c.head_dim) + d % 2; };
                  // The two parts leave 2^-16.
                  worst.look("query", d, static_cast<double>(bf16_to_float(got_q[part(0)])) + bf16_to_float(got_q[part(1)]), expected.value[d],
                             expected.bound[d] + std::fabs(expected.value[d]) * 0x1p-16);
                  if (got_q[part(0)] != q_eight[part(0)] || got_q[part(1)] != q_eight[part(1)]) tally::that(false, "qkv: query row %d has other bits among %d rows", r, rows);
                  written[part(0)] = written[part(1)] = true;
                } else if (is_value) {
                  const size_t at = set * value_stride + static_cast<size_t>(kv) * kPlaces * kValueDim + element(in_cache, kValueDim, d);
                  look_bf16(worst, "value", d, got_values[at], expected.value[d], expected.bound[d]);
                  if (got_values[at] != values_eight[at]) tally::that(false, "qkv: value row %d has other bits among %d rows", r, rows);
                } else {
                  const size_t at = set * key_stride + static_cast<size_t>(kv) * kPlaces * c.head_dim + element(in_cache, c.head_dim, d);
                  look_bf16(worst, "key", d, got_keys[at], expected.value[d], expected.bound[d]);
                  if (got_keys[at] != keys_eight[at]) tally::that(false, "qkv: key row %d has other bits among %d rows", r, rows);
                }
              }
            }
        }
        for (size_t i = 0; c.q_heads > 0 && i < got_q.size(); ++i)
          if (!written[i] && got_q[i] != 0xffff) tally::that(false, "qkv: a query of a row or head that is not there is written");
        if (small && rows == kRows) rows = 3;
      }
    }
  }
}

void test_window() {
  Worst worst("attention over a window");
  struct Case {
    int q_heads, kv_heads, window;
    bool sink;
  };
  std::vector<Case> cases = {{4, 2, 128, true}};
  if (!small) cases.insert(cases.end(), {{8, 1, 128, false}, {6, 6, 16, true}, {4, 2, 100, true}, {4, 1, 1, false}});
  int n = 0;
  for (const Case& c : cases) {
    // With eight heads some units have four pieces, the most that a reader takes at once; with others fewer.
    const Tiling tiling = c.q_heads == 8 ? tile(c.q_heads * 192 + c.kv_heads * (192 + kValueDim), 1536, Format::kBf16, 80)
                                         : tile(c.q_heads * 192 + c.kv_heads * (192 + kValueDim), 768, Format::kBf16, 24);
    tally::that(tiling.slices == 1 && (c.q_heads == 8 ? tiling.most == kMostPieces : tiling.most < kMostPieces), "window: units of %d pieces", tiling.most);
    Rig rig(std::max(8, c.q_heads));
    const Guarded<float> turns(turn_table());
    const std::vector<float> sinks = normals(c.q_heads, 2.0f);
    const Guarded<float> device_sinks(sinks);
    for (const int start : small ? std::vector<int>{0, 129} : std::vector<int>{0, 1, 15, 16, 100, 127, 128, 129, 135, 143, 1000, 2000}) {
      const std::vector<uint16_t> keys_before = make_cache(c.kv_heads, 192, start), values_before = make_cache(c.kv_heads, kValueDim, start);
      InputsOut::Host eight{};
      const std::mt19937 begin = generator;
      for (int rows = kRows; rows >= 1; --rows, ++n) {
        generator = begin;
        const HandNorm norm(6, rows, 1e-6f);
        const HandParts parts(tiling, rows, 2.0f, n);
        const Guarded<uint16_t> keys(keys_before), values(values_before);
        const InputsOut out(c.q_heads * kValueDim);
        Instruction ins = instruction(Op::kAttendWindow);
        AttendWindowArgs& a = ins.window;
        a.parts = parts.args();
        a.norm = norm.args();
        a.keys = keys.get();
        a.values = values.get();
        a.sinks = c.sink ? device_sinks.get() : nullptr;
        a.turns = turns.get();
        a.out = out.args();
        a.value_scale = 0.6f;
        a.q_heads = c.q_heads;
        a.kv_heads = c.kv_heads;
        a.max_context = kPlaces;
        a.window = c.window;
        a.by_group = divisor(static_cast<uint32_t>(c.q_heads / c.kv_heads));
        rig.step(start, rows);
        rig.run(ins, c.q_heads);
        const InputsOut::Host got = out.read("window");
        const std::vector<uint16_t> got_keys = keys.read("window"), raw_values = values.read("window");
        check_untouched("window", keys_before, got_keys, 192, start, rows);
        check_untouched("window", values_before, raw_values, kValueDim, start, rows);
        std::vector<uint16_t> got_values(raw_values.size());
        for (size_t i = 0; i < got_values.size(); ++i) {
          const int position = static_cast<int>(i / kValueDim % kPlaces), d = static_cast<int>(i % kValueDim);
          got_values[i] = raw_values[i - d + window_chunk(position, d / 8) * 8 + d % 8];
        }
        if (rows == kRows) eight = got;
        same_rows("window", eight, got, rows);
        for (int r = rows; r < kRows; ++r)
          for (int k = 0; k < got.k; ++k) worst.look("a row that is not there", k, got.split(r, k), 0, 0);
        if (rows < kRows && !(rows == 1 && start == 16)) continue;  // the bits are known already
        for (int r = 0; r < rows; ++r) {
          std::vector<double> expected(got.k), bound(got.k);
          const double factor = norm.factor(r);
          for (int kv = 0; kv < c.kv_heads; ++kv) {
            const Vector key = project(parts, factor, r, start + r, {(c.q_heads + kv) * 192, 192, true, nullptr, 1}, 0);
            const Vector value = project(parts, factor, r, start + r, {(c.q_heads + c.kv_heads) * 192 + kv * kValueDim, kValueDim, false, nullptr, static_cast<double>(0.6f)}, 0);
            for (int d = 0; d < 192; ++d)
              look_bf16(worst, "key", d, got_keys[static_cast<size_t>(kv) * kPlaces * 192 + in_order(start + r, 192, d)], key.value[d], key.bound[d]);
            for (int d = 0; d < kValueDim; ++d)
              look_bf16(worst, "value", d, got_values[static_cast<size_t>(kv) * kPlaces * kValueDim + in_order(start + r, kValueDim, d)], value.value[breaks("window.value") ? d ^ 1 : d], value.bound[d]);
          }
          for (int head = 0; head < c.q_heads; ++head) {
            const int kv = head / (c.q_heads / c.kv_heads), group = breaks("window.group") ? (kv + 1) % c.kv_heads : kv;
            const Vector q = project(parts, factor, r, start + r + (breaks("window.position") ? 1 : 0), {head * 192, 192, true, nullptr, 1}, 0);
            const int position = start + r;
            const Attention of{got_keys.data() + static_cast<size_t>(group) * kPlaces * 192, got_values.data() + static_cast<size_t>(group) * kPlaces * kValueDim, 192,
                               std::max(position + 1 - c.window - (breaks("window.one_more") && r > 0 ? 1 : 0), 0), breaks("window.later") && r + 1 < rows ? position + 2 : position + 1,
                               c.sink && !breaks("window.sink"), sinks[head], 0, in_order};
            const Vector x = attention(q, of);
            std::copy(x.value.begin(), x.value.end(), expected.begin() + head * kValueDim);
            std::copy(x.bound.begin(), x.bound.end(), bound.begin() + head * kValueDim);
          }
          check_inputs(worst, got, r, expected, bound);
        }
      }
    }
  }
}

// Attention over queries and caches by hand, in chunks and their combination: all before a row, a window, and the draft's block in both directions; one to eighteen heads
// of a key/value head.
void test_attend() {
  Worst worst("attention over the cache");
  struct Case {
    int q_heads, kv_heads, head_dim, window;
    bool sink, both_ways;
  };
  std::vector<Case> cases = {{4, 2, 192, 0, true, false}, {4, 1, 128, 64, true, true}, {16, 1, 192, 0, true, false}};
  if (!small)
    cases.insert(cases.end(), {{6, 3, 192, 0, false, false}, {4, 4, 128, 0, true, false}, {4, 2, 128, 0, false, true}, {2, 1, 192, 300, true, false},
                               {4, 2, 192, 128, false, true}, {32, 2, 192, 0, false, false}, {16, 1, 128, 1024, true, true}, {18, 1, 192, 200, true, false}});
  for (const Case& c : cases) {
    Rig rig(c.head_dim == 128 ? 8 : 13);
    const std::vector<float> sinks = normals(c.q_heads, 2.0f);
    const Guarded<float> device_sinks(sinks);
    for (const int start : small ? std::vector<int>{3, 127} : std::vector<int>{0, 1, 15, 16, 100, 121, 127, 128, 129, 191, 1000, 2000}) {
      const std::vector<uint16_t> all_keys = make_cache(c.kv_heads, c.head_dim, start + kRows), all_values = make_cache(c.kv_heads, kValueDim, start + kRows);
      const std::vector<float> all_q = normals(static_cast<size_t>(kRows) * c.q_heads * c.head_dim, 2.0f);
      InputsOut::Host eight{};
      for (int rows = kRows; rows >= 1; --rows) {
        std::vector<uint16_t> keys_of_rows = all_keys, values_of_rows = all_values;
        std::vector<float> q_of_rows = all_q;
        for (int kv = 0; kv < c.kv_heads; ++kv)
          for (int p = start + rows; p < start + kRows; ++p) {
            std::fill_n(keys_of_rows.begin() + (static_cast<size_t>(kv) * kPlaces + p) * c.head_dim, c.head_dim, uint16_t{0xffff});
            std::fill_n(values_of_rows.begin() + (static_cast<size_t>(kv) * kPlaces + p) * kValueDim, kValueDim, uint16_t{0xffff});
          }
        std::fill(q_of_rows.begin() + static_cast<size_t>(rows) * c.q_heads * c.head_dim, q_of_rows.end(), std::nanf(""));
        const Guarded<uint16_t> keys(keys_of_rows), values(values_of_rows);
        const Guarded<uint16_t> q(query_parts(q_of_rows, c.q_heads, c.kv_heads, c.head_dim));
        const Guarded<float> partial(static_cast<size_t>(chunk_places(start + rows)) * c.q_heads * kRows * kPartialFloats);
        const InputsOut out(c.q_heads * kValueDim);
        Instruction ins = instruction(Op::kAttend);
        AttendArgs& a = ins.attend;
        a.q = q.get();
        a.keys = keys.get();
        a.values = values.get();
        a.sinks = c.sink ? device_sinks.get() : nullptr;
        a.out = out.args();
        a.partial = partial.get();
        a.q_heads = c.q_heads;
        a.kv_heads = c.kv_heads;
        a.head_dim = c.head_dim;
        a.max_context = kPlaces;
        a.window = c.window;
        a.both_ways = c.both_ways;
        rig.step(start, rows);
        rig.run(ins);
        ins.op = Op::kCombine;
        rig.run(ins);
        partial.read("attend");
        const InputsOut::Host got = out.read("attend");
        if (rows == kRows) eight = got;
        if (!c.both_ways) same_rows("attend", eight, got, rows);  // a row of the draft's block sees as many as there are
        for (int r = rows; r < kRows; ++r)
          for (int k = 0; k < got.k; ++k) worst.look("a row that is not there", k, got.split(r, k), 0, 0);
        if (rows < kRows && !c.both_ways && start != 16) continue;
        for (int r = 0; r < rows; ++r) {
          std::vector<double> expected(got.k), bound(got.k);
          for (int head = 0; head < c.q_heads; ++head) {
            const int kv = head / (c.q_heads / c.kv_heads), position = start + r;
            Vector query{std::vector<double>(c.head_dim), std::vector<double>(c.head_dim, 0.0)};
            for (int d = 0; d < c.head_dim; ++d) query.value[d] = all_q[(static_cast<size_t>(r) * c.q_heads + head) * c.head_dim + d];
            int first = c.window > 0 ? std::max(position + 1 - c.window, 0) : 0, end = position + 1;
            if (c.both_ways) first = std::min(first, start), end = start + rows;
            if (breaks("attend.first") && position > 0) first = c.window > 0 && first > 0 ? first - 1 : first + 1;
            if (breaks("attend.later") && end < start + rows) ++end;
            if (breaks("attend.causal_block") && c.both_ways) end = position + 1;
            const Attention of{keys_of_rows.data() + static_cast<size_t>(kv) * kPlaces * c.head_dim, values_of_rows.data() + static_cast<size_t>(kv) * kPlaces * kValueDim, c.head_dim,
                               first, end, c.sink && !breaks("attend.sink"), sinks[head], kKeyBlock / 32 + 2, element};
            const Vector x = attention(query, of);
            std::copy(x.value.begin(), x.value.end(), expected.begin() + head * kValueDim);
            std::copy(x.bound.begin(), x.bound.end(), bound.begin() + head * kValueDim);
          }
          check_inputs(worst, got, r, expected, bound);
        }
        if (small && rows == kRows) rows = 3;
      }
    }
  }
}

}  // namespace kilotoken::ops
