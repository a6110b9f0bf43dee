// The head's end: logits and the best of each tile, the pick of a token for every row, the end of a round. Faults (a NaN, a row without a token) end the process's
// context and have a program of their own (stack_faults.cu).
#include <algorithm>

#include "core/random.h"
#include "core/ties.h"
#include "rig.h"

namespace kilotoken::ops {

namespace {

struct Best {
  float value;
  int id;
  uint32_t bit;
};
Best best_of(uint64_t word) {
  Best best;
  const uint32_t low = static_cast<uint32_t>(word), high = static_cast<uint32_t>(word >> 32);
  std::memcpy(&best.value, &low, 4);
  best.id = static_cast<int>(high & 0x7fffffffu);
  best.bit = high >> 31;
  return best;
}
uint64_t word_of(float value, int id, uint32_t bit) {
  uint32_t low;
  std::memcpy(&low, &value, 4);
  return static_cast<uint64_t>(static_cast<uint32_t>(id) | bit << 31) << 32 | low;
}

}  // namespace

void test_logits() {
  Worst worst("logits");
  struct Case {
    int vocab, first, rows, k;
    Format format;
    int blocks;
  };
  std::vector<Case> cases = {{320, 0, 320, 768, Format::kBf16, 13}, {1000, 0, 1000, 512, Format::kE4m3, 8}};
  if (!small) cases.insert(cases.end(), {{1000, 512, 488, 3072, Format::kBf16, 40}, {1024, 256, 256, 6144, Format::kE4m3, 132}, {65, 0, 65, 128, Format::kBf16, 8}});
  for (const Case& c : cases) {
    const Tiling tiling = tile(c.rows, c.k, c.format, c.blocks);
    const int all_tiles = (c.vocab + kTileRows - 1) / kTileRows;
    Rig rig(9);
    const Guarded<uint64_t> best(static_cast<size_t>(kRows) * all_tiles, 0);
    rig.program.comm.best[0] = best.get();
    for (int n = 0; n < (small ? 2 : 4); ++n) {
      const HandNorm norm(6, kRows, 1e-6f);
      HandParts parts(tiling, kRows, 1.0f, n);
      // Ties within a tile and over tiles, a tile of -inf, a NaN.
      if (n == 1)
        for (int t = 0; t < c.rows; t += 5) parts.put(1, t, 50.0f);
      if (n == 2) {
        for (int t = 0; t < std::min(64, c.rows); ++t) parts.put(2, t, -INFINITY);
        parts.put(3, c.rows / 2, std::nanf(""));
        parts.put(4, c.rows - 1, INFINITY);
      }
      parts.send();
      const Guarded<float> out(static_cast<size_t>(kRows) * c.vocab);
      Instruction ins = instruction(Op::kLogits);
      ins.logits.parts = parts.args();
      ins.logits.norm = norm.args();
      ins.logits.logits = out.get();
      ins.logits.best_uses = use(n);
      ins.logits.vocab = c.vocab;
      ins.logits.first = c.first;
      ins.logits.rows = c.rows;
      ins.first = 4 * n % rig.blocks;  // by turns at the first block, a later one, and so late that the first blocks follow the last
      rig.step(3, kRows);
      rig.run(ins, std::min(tiling.tiles, rig.blocks));
      const std::vector<float> got = out.read("logits");
      const std::vector<uint64_t> bests = best.read("logits");
      for (int r = 0; r < kRows; ++r) {
        const double factor = norm.factor(breaks("logits.factor") ? (r + 1) % kRows : r);
        for (int t = 0; t < c.vocab; ++t) {
          const float x = got[static_cast<size_t>(r) * c.vocab + t];
          if (t < c.first || t >= c.first + c.rows) {
            uint32_t bits;
            std::memcpy(&bits, &x, 4);
            if (bits != 0xffffffffu) tally::that(false, "logits: another GPU's logit is written");
            continue;
          }
          const HandParts::Sum s = parts.sum(r, t - c.first);
          if (!std::isfinite(s.value)) {
            tally::that(std::isnan(s.value) ? std::isnan(x) : x == static_cast<float>(s.value), "logits: %g becomes %g", s.value, x);
            continue;
          }
          worst.look("logit", t, x, s.value * factor, gamma(s.terms + HandNorm::kSteps + 1) * s.magnitude * factor);
        }
        for (int tile = 0; tile < tiling.tiles; ++tile) {  // from the logits as they are
          const int begin = c.first + tile * kTileRows, end = std::min(begin + kTileRows, c.first + c.rows);
          int id = begin;
          bool bad = false;
          for (int t = begin; t < end; ++t) {
            const float x = got[static_cast<size_t>(r) * c.vocab + t];
            bad = bad || !(x < INFINITY);
            const bool later = breaks("logits.tie") ? x >= got[static_cast<size_t>(r) * c.vocab + id] : ranks_before(x, t, got[static_cast<size_t>(r) * c.vocab + id], id);
            if (later) id = t;
          }
          const Best b = best_of(bests[static_cast<size_t>(r) * all_tiles + c.first / kTileRows + tile]);
          tally::that(b.bit == mark(n), "logits: the best of a tile is not marked");
          if (bad) tally::that(std::isnan(b.value), "logits: a tile with a NaN or +inf says %g", b.value);
          else tally::that(b.id == id && b.value == got[static_cast<size_t>(r) * c.vocab + id], "logits: row %d, tile %d: best %d (%g), expected %d", r, tile, b.id, b.value, id);
        }
      }
    }
  }
}

// The greedy token of each row, and the laws of a row with filters: p against a computation in double of the same definition, and the tokens that the seed's numbers
// draw from it.
void test_picks() {
  Worst worst("picks");
  struct Case {
    double temperature, top_p;
    uint32_t top_k;
    Rule rule;
  };
  const std::vector<Case> cases = {{0, 1, 0, Rule::kMatch}, {1, 1, 0, Rule::kMatch}, {0.7, 0.9, 0, Rule::kCoupled}, {1.3, 1, 20, Rule::kMatch}, {0.8, 0.95, 40, Rule::kMatch}};
  for (const int vocab : small ? std::vector<int>{320} : std::vector<int>{320, 1000, 152000}) {
    const int tiles = (vocab + kTileRows - 1) / kTileRows;
    Rig rig(8);
    const Guarded<uint64_t> best(static_cast<size_t>(kRows) * tiles, 0);
    rig.program.comm.best[0] = best.get();
    int n = 0;
    for (const Case& c : cases) {
      if (vocab > 100000 && c.top_p < 1 && c.top_k == 0) continue;
      std::vector<float> logits = normals(static_cast<size_t>(kRows) * vocab, 2.0f);
      for (int r = 0; r < kRows; ++r) {  // ties at the top and around the filters' edges
        for (int i = 0; i < 6; ++i) logits[static_cast<size_t>(r) * vocab + (17 * r + 41 * i) % vocab] = 9.0f;
        for (int t = 0; t < vocab; t += 7) logits[static_cast<size_t>(r) * vocab + t] = 0.5f * static_cast<float>(below(9));
        for (int t = 3; t < vocab; t += 11) logits[static_cast<size_t>(r) * vocab + t] = -INFINITY;
      }
      const int rows = 5;
      std::vector<uint64_t> words(static_cast<size_t>(kRows) * tiles, word_of(std::nanf(""), 0, mark(n)));  // of rows that are not there
      for (int r = 0; r < rows; ++r)
        for (int tile = 0; tile < tiles; ++tile) {
          int id = tile * kTileRows;
          for (int t = id; t < std::min(vocab, (tile + 1) * kTileRows); ++t)
            if (ranks_before(logits[static_cast<size_t>(r) * vocab + t], t, logits[static_cast<size_t>(r) * vocab + id], id)) id = t;
          words[static_cast<size_t>(r) * tiles + tile] = word_of(logits[static_cast<size_t>(r) * vocab + id], id, mark(n));
        }
      best.write(words);
      const Guarded<float> device_logits(logits);
      const Guarded<double> row(static_cast<size_t>(kRows) * vocab), draft_row(static_cast<size_t>(kRows) * vocab);
      Instruction ins = instruction(Op::kPick);
      ins.pick.logits = device_logits.get();
      ins.pick.best_uses = use(n);
      ins.pick.row = row.get();
      ins.pick.draft_row = draft_row.get();
      ins.pick.vocab = vocab;
      ins.pick.tiles = tiles;
      rig.step(40, rows);
      rig.session.phase = Phase::kDecode;
      rig.session.block_size = kRows;
      rig.session.seed = 77;
      rig.session.temperature = c.temperature;
      rig.session.top_p = c.top_p;
      rig.session.top_k = c.top_k;
      rig.session.rule = c.rule;
      std::fill_n(rig.session.target_token, kRows, -7);
      rig.run(ins);
      const std::vector<double> p = row.read("picks");
      for (int r = 0; r < kRows; ++r) {
        const int token = rig.session.target_token[r];
        if (r >= rows) {
          tally::that(token == -7, "picks: a row that is not there decides");
          continue;
        }
        const float* x = logits.data() + static_cast<size_t>(breaks("pick.row") ? (r + 1) % rows : r) * vocab;
        const int top = argmax(x, vocab);
        if (c.temperature == 0) {
          tally::that(token == (breaks("pick.greedy") ? top + 1 : top), "picks: row %d takes %d, the first best is %d", r, token, top);
          continue;
        }
        // The law: kept tokens in rank order.
        std::vector<int> order(vocab);
        for (int t = 0; t < vocab; ++t) order[t] = t;
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return ranks_before(x[a], a, x[b], b); });
        const size_t kept_k = c.top_k > 0 ? std::min<size_t>(c.top_k + (breaks("pick.top_k") ? 1 : 0), vocab) : vocab;
        std::vector<double> law(vocab, 0.0);
        double mass = 0;
        for (size_t i = 0; i < kept_k; ++i) mass += law[order[i]] = std::exp((static_cast<double>(x[order[i]]) - x[top]) / (breaks("pick.temperature") ? 1.01 * c.temperature : c.temperature));
        for (double& v : law) v /= mass;
        if (c.top_p < 1) {
          double sum = 0, kept = 0;
          size_t i = 0;
          for (; i < kept_k && sum < c.top_p; ++i) sum += law[order[i]];
          if (breaks("pick.top_p")) ++i;
          for (; i < static_cast<size_t>(vocab); ++i) law[order[i]] = 0;
          for (const double v : law) kept += v;
          for (double& v : law) v /= kept;
        }
        for (int t = 0; t < vocab; ++t) {  // sums of `vocab` doubles in another order: vocab 2^-53 of them, and the exponential
          const double bound = law[t] * (2.0 * vocab + 16) * 0x1p-53;
          worst.look("p", t, p[static_cast<size_t>(r) * vocab + t], law[t], bound);
        }
        // What is drawn lies within the slack of the sums.
        const uint32_t position = rig.session.start + 1 + static_cast<uint32_t>(r) + (breaks("pick.position") ? 1 : 0);
        if (c.rule == Rule::kMatch) {
          const double u = uniform(77, position, kilotoken::Stream::kTargetSample, 0);
          double before = 0;
          for (int t = 0; t < token && t < vocab; ++t) before += law[t];
          tally::that(token >= 0 && token < vocab && before <= u + vocab * 0x1p-52 && before + law[token] >= u - vocab * 0x1p-52 && law[token] > 0,
                      "picks: row %d draws %d, whose range does not hold the number", r, token);
        } else {
          double score = -INFINITY;
          int id = -1;
          for (int t = 0; t < vocab; ++t) {
            if (!(law[t] > 0)) continue;
            const double s = std::log(law[t]) + gumbel(77, position, static_cast<uint32_t>(t));
            if (ranks_before(s, t, score, id)) score = s, id = t;
          }
          tally::that(token == id, "picks: row %d takes %d with its noise, expected %d", r, token, id);
        }
      }
      ++n;
    }
  }
}

// The end of a round against the rules, stated once more in the plainest way. Rows, drafts and choices by hand.
void test_accept() {
  const size_t before = static_cast<size_t>(tally::passed);
  Rig rig(8);
  constexpr int kContext = 64;
  const Guarded<int32_t> tokens(kContext + kRows);
  for (int trial = 0; trial < (small ? 40 : 400); ++trial) {
    SessionState& s = rig.session;
    const uint32_t round = s.round;
    s = SessionState{};
    s.round = round;
    s.tokens = tokens.get();
    s.max_context = kContext;
    s.prompt_length = 9;
    s.rule = static_cast<Rule>(below(3));
    s.temperature = below(2);
    s.block_size = static_cast<uint32_t>(1 + below(8));
    const bool prefill = below(5) == 0;
    s.phase = prefill ? Phase::kPrefill : Phase::kDecode;
    s.length = prefill ? 9 : static_cast<uint32_t>(10 + below(kContext - 10));
    s.start = prefill ? (below(2) != 0 ? 0 : 8) : s.length - 1;
    s.rows = prefill ? std::min<uint32_t>(8, 9 - s.start) : std::min(s.block_size, s.max_context - s.length);
    if (s.rows == 0) s.rows = 1;
    s.max_tokens = static_cast<uint64_t>(s.length - 9 + 1 + below(12));
    const int agree = below(9);
    for (int i = 0; i < kRows; ++i) {
      s.step[i] = 100 + i;
      s.target_token[i] = i + 1 < kRows && i < agree ? 100 + i + 1 : 200 + i;
      s.corrected[i] = 300 + i;
      s.passed[i] = i < agree;
    }
    s.stop_count = below(3) == 0 ? 1 : 0;
    s.stop_ids[0] = below(2) != 0 ? 102 : 200 + below(8);
    std::vector<int32_t> text(kContext + kRows, 7);
    tokens.write(text);
    const SessionState was = s;
    Instruction ins = instruction(Op::kAccept);
    rig.run(ins, 1);
    const SessionState& now = rig.session;
    if (prefill && was.start + was.rows < was.prompt_length) {
      tally::that(now.start == was.start + was.rows && now.phase == Phase::kPrefill && now.round == was.round && now.rows == 1 && now.step[0] == 7, "accept: a prompt goes on");
      continue;
    }
    const bool rejects = was.rule == Rule::kReject && was.temperature != 0 && was.block_size > 1;
    std::vector<int32_t> committed;
    uint32_t accepted = 0;
    if (prefill) {
      committed.push_back(was.target_token[was.rows - 1]);
    } else {
      while (accepted + 1 < was.rows && (rejects ? was.passed[accepted] != 0 : was.target_token[accepted] == was.step[accepted + 1])) committed.push_back(was.step[++accepted]);
      const uint32_t row = breaks("accept.bonus") && accepted > 0 ? accepted - 1 : accepted;
      committed.push_back(accepted + 1 == was.rows || !rejects ? was.target_token[row] : was.corrected[row]);
    }
    const uint32_t verified = prefill ? was.rows : static_cast<uint32_t>(committed.size());
    const uint64_t left = was.max_tokens - (was.length - was.prompt_length);
    if (committed.size() > left) committed.resize(left);
    uint32_t finish = 0;
    for (size_t i = 0; i < committed.size() && was.stop_count > 0; ++i)
      if (committed[i] == was.stop_ids[0]) {
        committed.resize(i + 1);
        finish = 1;
      }
    if (finish == 0 && (committed.size() == left || was.length + committed.size() >= kContext)) finish = 2;
    const RoundRecord& record = rig.mailbox->rounds[was.round % kMailboxRounds];
    tally::that(record.sequence == was.round + 1 && record.finish == (breaks("accept.finish") ? 0 : finish) && record.accepted == accepted &&
                    record.committed_count == committed.size() && std::equal(committed.begin(), committed.end(), record.committed),
                "accept: trial %d: %u tokens, %u accepted, finish %u; expected %zu, %u, %u", trial, record.committed_count, record.accepted, record.finish, committed.size(), accepted,
                finish);
    tally::that(now.start == was.start + verified + (breaks("accept.start") ? 1 : 0) && now.length == was.length + committed.size() && now.round == was.round + 1,
                "accept: trial %d: the next step begins at %u, expected %u", trial, now.start, was.start + verified);
    const std::vector<int32_t> after = tokens.read("accept");
    for (size_t i = 0; i < committed.size(); ++i) text[was.length + i] = committed[i];
    tally::that(after == text, "accept: trial %d: other tokens are kept", trial);
    if (finish == 0)
      tally::that(now.phase == Phase::kDecode && now.rows == std::min(was.block_size, kContext - now.length) && now.step[0] == text[now.length - 1], "accept: trial %d: the next step", trial);
    else
      tally::that(now.phase == (finish == 1 ? Phase::kStopped : Phase::kFull), "accept: trial %d: the end", trial);
  }
  if (broken.empty()) std::printf("%-28s %10zu checks\n", "accept", static_cast<size_t>(tally::passed) - before);
}

}  // namespace kilotoken::ops
