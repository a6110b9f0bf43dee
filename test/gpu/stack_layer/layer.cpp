#include "layer.h"

#include <array>
#include <cstring>
#include <map>
#include <numeric>

#include "core/bf16.h"
#include "core/e2m1.h"
#include "core/e4m3.h"
#include "core/e8m0.h"
#include "core/ties.h"

namespace kilotoken::layer {

namespace {

using P = SyntheticPart;

constexpr int kRotary = 64, kValueDim = 128, kBlock = 128;

std::vector<uint8_t> bytes_of(const Network& n, int layer, P part, uint64_t row) {
  const SyntheticTensor t = synthetic_tensor(n.shape, n.shard, static_cast<uint32_t>(layer), part);
  std::vector<uint8_t> out(t.bytes);
  synthetic_rows(n.seed, t, row, 1, out.data());
  return out;
}

template <class Word, class Value>
std::vector<double> words_of(const Network& n, int layer, P part, uint64_t row, Value value) {
  const std::vector<uint8_t> bytes = bytes_of(n, layer, part, row);
  std::vector<double> out(bytes.size() / sizeof(Word));
  for (size_t i = 0; i < out.size(); ++i) {
    Word word;
    std::memcpy(&word, bytes.data() + i * sizeof word, sizeof word);
    out[i] = value(word);
  }
  return out;
}
std::vector<double> bf16_row(const Network& n, int layer, P part, uint64_t row) { return words_of<uint16_t>(n, layer, part, row, bf16_to_float); }
std::vector<double> binary32_row(const Network& n, int layer, P part, uint64_t row) {
  return words_of<float>(n, layer, part, row, [](float x) { return x; });
}

Weights with_peaks(std::vector<double> value) {
  const int width = static_cast<int>(value.size());
  std::vector<double> peak = peaks(value.data(), width);
  return {std::move(value), std::move(peak)};
}

// E4M3 codes times the scales of the row's 128 x 128 blocks; `scales` follows `codes`.
Weights e4m3_row(const Network& n, int layer, P codes, uint64_t row, uint64_t scale_row) {
  std::vector<double> w = words_of<uint8_t>(n, layer, codes, row, e4m3_to_float);
  const std::vector<double> scale = binary32_row(n, layer, static_cast<P>(static_cast<uint32_t>(codes) + 1), scale_row);
  for (size_t k = 0; k < w.size(); ++k) w[k] *= scale[k / kBlock];
  return with_peaks(std::move(w));
}

// E2M1 codes, the lower half of a byte first, times the scales of 32.
Weights mxfp4_row(const Network& n, int layer, P codes, uint64_t row) {
  static const std::array<double, 16> value = [] {
    std::array<double, 16> v{};
    for (int i = 0; i < 16; ++i) v[static_cast<size_t>(i)] = e2m1_to_float(static_cast<uint8_t>(i));
    return v;
  }();
  const std::vector<uint8_t> code = bytes_of(n, layer, codes, row), scale = bytes_of(n, layer, static_cast<P>(static_cast<uint32_t>(codes) + 1), row);
  std::vector<double> w(code.size() * 2);
  for (size_t block = 0; block < w.size() / 32; ++block) {
    const double s = e8m0_to_float(scale[block]) * (breaks("expert_scale") && codes == P::kDown && block == 1 ? 2 : 1);
    for (size_t i = block * 16; i < block * 16 + 16; ++i) w[2 * i] = value[code[i] & 15] * s, w[2 * i + 1] = value[code[i] >> 4] * s;
  }
  return with_peaks(std::move(w));
}

// x / rms(x) * weight. The factor's error is the whole row's: that of the sum of squares, and twelve roundings on its way. `shared` gets it.
Rows normed(const Network& n, const Rows& x, const std::vector<double>& weight, std::vector<double>& shared) {
  Rows y(x.count, x.width);
  for (int r = 0; r < x.count; ++r) {
    double squares = 0, variance = 0;
    for (int i = 0; i < x.width; ++i) {
      const size_t at = x.at(r, i);
      squares += square(x.value[at]);
      variance += square(x.value[at]) * x.variance[at];
    }
    const double factor = 1 / std::sqrt(squares / x.width + n.target.epsilon);
    shared.push_back(variance / square(squares) + off_by(12 * kUnit));
    for (int i = 0; i < x.width; ++i) {
      const size_t at = x.at(r, i);
      y.value[at] = x.value[at] * factor * weight[i];
      y.variance[at] = x.variance[at] * square(factor * weight[i]) + off_by(kUnit * y.value[at]);
    }
  }
  return y;
}

Inputs e4m3_inputs(const Rows& y, const std::vector<double>& shared) {
  Inputs in = coded(y, kBlock);
  in.shared = shared;
  return in;
}

// The first 64 dimensions of a head turn, d with d + 32; cosine and sine are binary32.
void turn(Estimate* head, int position, double theta) {
  for (int d = 0; d < kRotary / 2; ++d) {
    const double angle = position * std::pow(theta, -2.0 * d / kRotary), c = std::cos(angle), s = std::sin(angle);
    const Estimate x = head[d], y = head[d + kRotary / 2];
    const double rounding = off_by(4 * kUnit) * (square(x.value) + square(y.value));
    head[d] = {x.value * c - y.value * s, square(c) * x.variance + square(s) * y.variance + rounding};
    head[d + kRotary / 2] = {y.value * c + x.value * s, square(c) * y.variance + square(s) * x.variance + rounding};
  }
}

Estimate in_bf16(const Estimate& x) {
  double step;
  const double rounded = nearest(x.value, 8, -126, step);
  return {rounded, flips(x.value, rounded, step, x.variance)};
}

// What a head of a row makes of the keys and values that it sees. An error ds of a score moves the result by p ds (v - result).
void attend(const Estimate* q, const Estimate* keys, const Estimate* values, int count, int head_dim, const double* sink, double* value, double* variance) {
  std::vector<double> weight(static_cast<size_t>(count)), wander(weight.size());
  double top = sink != nullptr ? *sink : -INFINITY;
  for (int i = 0; i < count; ++i) {
    const Estimate* k = keys + static_cast<size_t>(i) * head_dim;
    double sum = 0, squares = 0, inherited = 0;
    for (int d = 0; d < head_dim; ++d) {
      const double term = q[d].value * k[d].value;
      sum += term;
      squares += term * term;
      inherited += square(q[d].value) * k[d].variance + square(k[d].value) * (q[d].variance + off_by(kSplit * q[d].value));
    }
    weight[i] = sum / std::sqrt(static_cast<double>(head_dim));
    wander[i] = (inherited + (head_dim / 8 + 8) * 4 * off_by(2 * kUnit) * (squares + square(sum))) / head_dim;
    top = std::max(top, weight[i]);
  }
  double total = sink != nullptr ? std::exp(*sink - top) : 0;
  for (int i = 0; i < count; ++i) {
    // An exponential is off by 3 + 1.173 |x| units of 2^-23, once more for a rescaling; the weight is split in two parts.
    wander[i] += 2 * off_by((3 + 1.173 * (top - weight[i])) * 2 * kUnit) + off_by(kSplit);
    weight[i] = std::exp(weight[i] - top);
    total += weight[i];
  }
  for (int d = 0; d < kValueDim; ++d) {
    double sum = 0;
    for (int i = 0; i < count; ++i) sum += weight[i] * values[static_cast<size_t>(i) * kValueDim + d].value;
    sum /= total;
    double spread = off_by((8 + count / 16.0) * 2 * kUnit * sum);
    for (int i = 0; i < count; ++i) {
      const Estimate& v = values[static_cast<size_t>(i) * kValueDim + d];
      spread += square(weight[i] / total) * (wander[i] * square(v.value - sum) + v.variance);
    }
    value[d] = sum;
    variance[d] = spread;
  }
}

double silu(double x) { return x / (1 + std::exp(-x)); }

// silu(gate) up, with the errors of both and of the function: an exponential, a division, three products.
Estimate swiglu(const Estimate& gate, const Estimate& up) {
  const double s = 1 / (1 + std::exp(-gate.value)), steepness = s * (1 + gate.value * (1 - s)), value = silu(gate.value) * up.value;
  return {value, square(steepness * up.value) * gate.variance + square(silu(gate.value)) * up.variance + off_by((8 + 1.173 * std::fabs(gate.value)) * 2 * kUnit * value)};
}

void put(Rows& to, int row, int i, const Estimate& x) {
  to.value[to.at(row, i)] = x.value;
  to.variance[to.at(row, i)] = x.variance;
}

Rows dense(const Network& n, int layer, const Inputs& in, int width) {
  Rows h(in.x.count, width), out(in.x.count, n.target.hidden);
  parallel(width, [&](int i) {
    const auto row = static_cast<uint64_t>(i);
    const Weights gate = e4m3_row(n, layer, P::kDenseGate, row, row / kBlock), up = e4m3_row(n, layer, P::kDenseUp, breaks("dense_row") && i == 3 ? row + 1 : row, row / kBlock);
    for (int r = 0; r < in.x.count; ++r) put(h, r, i, swiglu(product(gate, in, r, Core::kCodes), product(up, in, r, Core::kCodes)));
  });
  const Inputs down_in = coded(h, kBlock);
  parallel(n.target.hidden, [&](int i) {
    const auto row = static_cast<uint64_t>(i);
    const Weights down = e4m3_row(n, layer, P::kDenseDown, row, row / kBlock);
    for (int r = 0; r < in.x.count; ++r) put(out, r, i, product(down, down_in, r, Core::kCodes));
  });
  return out;
}

struct Choice {
  int expert;
  Estimate weight;
};

// By row: the experts with the largest sigmoid(logit) + bias, ties to the lowest, weighted by their shares of the sum of sigmoids.
std::vector<std::vector<Choice>> route(const Network& n, int layer, const Inputs& in, const int32_t* chosen, std::vector<Routing>& routing) {
  const int experts = n.target.experts, per_token = n.target.experts_per_token;
  std::vector<double> bias = binary32_row(n, layer, P::kCorrectionBias, 0);
  // Above every score: at most 1/64 as the biases are, leaving all of them out changes the choice in one of 18 rows of the small shape, or in none where products are cut.
  if (breaks("bias")) bias[0] += 1;
  Rows logits(in.x.count, experts);
  parallel(experts, [&](int e) {
    Weights w{binary32_row(n, layer, P::kRouter, static_cast<uint64_t>(breaks("router_row") && e < 2 ? 1 - e : e)), {}};
    double squares = 0;  // what two parts leave of the weights
    for (const double x : w.value) squares += square(x);
    for (int r = 0; r < in.x.count; ++r) {
      Estimate logit = product(w, in, r, Core::kBf16);
      double x_squares = 0;
      for (int k = 0; k < in.x.width; ++k) x_squares += square(in.x.value[in.x.at(r, k)] * w.value[k]);
      logit.variance += off_by(kSplit) * x_squares;
      put(logits, r, e, logit);
    }
  });
  std::vector<std::vector<Choice>> out;
  for (int r = 0; r < in.x.count; ++r) {
    std::vector<double> p(static_cast<size_t>(experts)), score(p), variance(p);
    for (int e = 0; e < experts; ++e) {
      const double logit = logits.value[logits.at(r, e)];
      p[e] = 1 / (1 + std::exp(-logit));
      score[e] = p[e] + bias[e];
      variance[e] = square(p[e] * (1 - p[e])) * logits.variance[logits.at(r, e)] + off_by(p[e] * (6 + 1.173 * std::fabs(logit)) * 2 * kUnit) + off_by(kUnit * score[e]);
    }
    std::vector<int> ids(static_cast<size_t>(per_token));
    top_k(score.data(), experts, per_token, ids.data());
    // The device's, if they are as many; each that only one of the two chose must be as good as a tie with each that only the other did.
    const int32_t* theirs = chosen + static_cast<size_t>(r) * per_token;
    std::vector<bool> ours(static_cast<size_t>(experts)), of_device(ours);
    for (const int e : ids) ours[e] = true;
    for (int i = 0; i < per_token; ++i)
      if (theirs[i] >= 0 && theirs[i] < experts) of_device[theirs[i]] = true;
    const bool same = ours == of_device;
    bool tie = std::count(of_device.begin(), of_device.end(), true) == per_token;
    for (int e = 0; e < experts; ++e)
      for (int other = 0; other < experts; ++other)
        if (ours[e] && !of_device[e] && of_device[other] && !ours[other]) tie = tie && score[e] - score[other] < kDeviations * std::sqrt(variance[e] + variance[other]);
    ++(same ? routing[r].agree : tie ? routing[r].near_ties : routing[r].differ);
    if (!same && tie) ids.assign(theirs, theirs + per_token);
    double total = 0, total_variance = 0;
    for (const int e : ids) total += p[e], total_variance += variance[e];
    std::vector<Choice> row;
    for (const int e : ids) {
      const double weight = p[e] / (breaks("normalise") ? 1 : total);
      row.push_back({e, {weight, square(weight) * (variance[e] / square(p[e]) + total_variance / square(total) + off_by(8 * kUnit))}});
    }
    out.push_back(row);
  }
  return out;
}

Rows mixture(const Network& n, int layer, const Inputs& codes, const Inputs& parts, int width, const int32_t* chosen, std::vector<Routing>& routing) {
  const int rows = codes.x.count, hidden = n.target.hidden;
  const std::vector<std::vector<Choice>> choices = route(n, layer, parts, chosen, routing);
  struct Use {
    int row;
    Estimate weight;
  };
  std::map<int, std::vector<Use>> uses;  // by expert
  for (int r = 0; r < rows; ++r)
    for (const Choice& c : choices[r]) uses[c.expert].push_back({r, c.weight});
  const int wrong = choices[0][0].expert, other = (wrong + 1) % n.target.experts;  // for mistakes
  Rows out(rows, hidden);
  for (const auto& [expert, users] : uses) {
    Rows h(static_cast<int>(users.size()), width);
    parallel(width, [&](int i) {
      const auto row = static_cast<uint64_t>(breaks("gate_row") && expert == wrong && i == 3 ? other : expert) * width + i;
      const Weights gate = mxfp4_row(n, layer, P::kGate, row), up = mxfp4_row(n, layer, P::kUp, static_cast<uint64_t>(expert) * width + i);
      for (size_t u = 0; u < users.size(); ++u)
        put(h, static_cast<int>(u), i, swiglu(product(gate, codes, users[u].row, Core::kCodes), product(up, codes, users[u].row, Core::kCodes)));
    });
    const Inputs down_in = coded(h, 32);
    parallel(hidden, [&](int i) {
      const Weights down = mxfp4_row(n, layer, P::kDown, static_cast<uint64_t>(breaks("down_row") && expert == wrong && i == 3 ? other : expert) * hidden + i);
      for (size_t u = 0; u < users.size(); ++u) {
        const Estimate x = product(down, down_in, static_cast<int>(u), Core::kCodes);
        const size_t at = out.at(users[u].row, i);
        out.value[at] += users[u].weight.value * x.value;
        out.variance[at] += square(users[u].weight.value) * x.variance + users[u].weight.variance * square(x.value);
      }
    });
  }
  return out;
}

void add_residual(Rows& branch, const Rows& in, int first) {
  for (int r = 0; r < branch.count; ++r)
    for (int i = 0; i < branch.width; ++i) {
      const size_t at = branch.at(r, i), from = in.at(first + r, i);
      branch.value[at] += in.value[from];
      branch.variance[at] += in.variance[from] + off_by(kUnit * branch.value[at]);
    }
}

}  // namespace

std::vector<double> embedding(const Network& n, int id) { return bf16_row(n, 0, P::kEmbedding, static_cast<uint64_t>(id)); }

Rows behind_attention(const Network& n, int layer, const Rows& in, int first) {
  const stack::AttentionShape& a = n.target.layers[static_cast<size_t>(layer)].attention;
  const int positions = in.count, rows = positions - first, per_kv = a.q_heads / a.kv_heads, dim = a.head_dim;
  const int group = per_kv * dim + dim + kValueDim, scale_rows = (group + kBlock - 1) / kBlock;  // the fused projection: [query heads | key | value] of each key/value head
  std::vector<double> shared;
  const Inputs x = e4m3_inputs(normed(n, in, bf16_row(n, layer, breaks("input_norm") ? P::kPostAttentionNorm : P::kInputNorm, 0), shared), shared);
  std::vector<Estimate> q(static_cast<size_t>(rows) * a.q_heads * dim), keys(static_cast<size_t>(a.kv_heads) * positions * dim),
      values(static_cast<size_t>(a.kv_heads) * positions * kValueDim);
  parallel(group * a.kv_heads, [&](int i) {
    const int kv = i / group, at = i % group;
    const int scale = breaks("qkv_scale") && i == 0 ? 1 : at / kBlock;
    const Weights w = e4m3_row(n, layer, P::kQkv, static_cast<uint64_t>(i), static_cast<uint64_t>(kv * scale_rows + scale));
    const bool is_query = at < per_kv * dim, is_key = !is_query && at < per_kv * dim + dim;
    for (int p = is_query ? first : 0; p < positions; ++p) {
      Estimate y = product(w, x, p, Core::kCodes);
      if (is_query) {
        q[(static_cast<size_t>(p - first) * a.q_heads + kv * per_kv) * dim + at] = y;
      } else if (is_key) {
        keys[(static_cast<size_t>(kv) * positions + p) * dim + at - per_kv * dim] = y;
      } else {
        const double scaled = y.value * (breaks("value_scale") ? 1 : n.target.value_scale);
        values[(static_cast<size_t>(kv) * positions + p) * kValueDim + at - per_kv * dim - dim] =
            in_bf16({scaled, y.variance * square(n.target.value_scale) + off_by(2 * kUnit * scaled)});
      }
    }
  });
  parallel(a.kv_heads * positions, [&](int i) {
    Estimate* key = keys.data() + static_cast<size_t>(i) * dim;
    turn(key, i % positions, a.rope_theta);
    for (int d = 0; d < dim; ++d) key[d] = in_bf16(key[d]);
  });
  const std::vector<double> sinks = a.sink ? bf16_row(n, layer, P::kSinks, 0) : std::vector<double>();
  Rows heads(rows, a.q_heads * kValueDim);
  parallel(rows * a.q_heads, [&](int i) {
    const int r = i / a.q_heads, head = i % a.q_heads, position = first + r, kv = head / per_kv;
    const int seen = a.window == 0 ? position + 1 : std::min(position + 1, a.window + (breaks("window") ? 1 : 0)), from = position + 1 - seen;
    Estimate* const query = q.data() + static_cast<size_t>(i) * dim;
    turn(query, position + (breaks("turn") ? 1 : 0), a.rope_theta);
    const size_t at = static_cast<size_t>(kv) * positions + from;
    const int more = breaks("later") && position + 1 < positions ? 1 : 0;
    attend(query, keys.data() + at * dim, values.data() + at * kValueDim, seen + more, dim, a.sink && !breaks("sink") ? &sinks[head] : nullptr,
           heads.value.data() + heads.at(r, head * kValueDim), heads.variance.data() + heads.at(r, head * kValueDim));
  });
  const Inputs o_in = split(heads);
  Rows out(rows, n.target.hidden);
  parallel(n.target.hidden, [&](int i) {
    const Weights w{bf16_row(n, layer, P::kO, static_cast<uint64_t>(breaks("o_row") && i == 3 ? i + 1 : i)), {}};
    for (int r = 0; r < rows; ++r) put(out, r, i, product(w, o_in, r, Core::kBf16));
  });
  add_residual(out, in, first);
  return out;
}

Rows behind_feed_forward(const Network& n, int layer, const Rows& in, const int32_t* chosen, std::vector<Routing>& routing) {
  const stack::LayerShape& shape = n.target.layers[static_cast<size_t>(layer)];
  std::vector<double> shared;
  const Rows y = normed(n, in, bf16_row(n, layer, breaks("post_norm") ? P::kInputNorm : P::kPostAttentionNorm, 0), shared);
  const Inputs codes = e4m3_inputs(y, shared);
  Rows out;
  if (shape.mixture) {
    Inputs parts = split(y);
    parts.shared = shared;
    routing.resize(static_cast<size_t>(in.count));
    out = mixture(n, layer, codes, parts, shape.ffn_width, chosen, routing);
  } else {
    out = dense(n, layer, codes, shape.ffn_width);
  }
  add_residual(out, in, 0);
  return out;
}

}  // namespace kilotoken::layer
