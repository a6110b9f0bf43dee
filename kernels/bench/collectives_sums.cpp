// What the all-reduce alone adds and what its sums must be, on the host. As the device computes it, bit for bit; nothing here contracts (-ffp-contract=off).
#include <algorithm>
#include <bit>
#include <cstdio>

#include "collectives.h"

namespace kilotoken::bench {

namespace {

// Finaliser of MurmurHash3 (Appleby): every bit of the key reaches every bit of the result.
uint32_t mix(uint32_t x) {
  x = (x ^ x >> 16) * 0x85ebca6bu;
  x = (x ^ x >> 13) * 0xc2b2ae35u;
  return x ^ x >> 16;
}

// A multiple of 2^-23 in [-1, 1).
float unit(uint32_t key) { return static_cast<float>(static_cast<int32_t>(mix(key)) >> 8) * 0x1p-23f; }

float varied(float base, uint32_t bits) { return std::bit_cast<float>(std::bit_cast<uint32_t>(base) ^ bits); }

float unmarked(float x) { return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & ~1u); }

}  // namespace

const char* name_of(Data data) { return data == Data::kRandom ? "random" : "cancelling"; }

std::vector<float> collective_base(Data data, int rank, int ranks) {
  std::vector<float> base(size_t{kCollectiveRows} * kCollectiveHidden);
  const int half = ranks / 2;
  for (size_t i = 0; i < base.size(); ++i) {
    const uint32_t key = static_cast<uint32_t>(i) * 16;
    base[i] = unit(key + static_cast<uint32_t>(rank) * 2);
    if (data == Data::kRandom || rank >= 2 * half) continue;
    const float large = unit(key + static_cast<uint32_t>(rank % half) * 2 + 1) * 4096.0f;
    base[i] += rank < half ? large : -large;
  }
  return base;
}

std::vector<float> expected_sums(const std::vector<std::vector<float>>& base, int calls, bool one_hop) {
  constexpr size_t kStretch = 512;  // of places; its summands stay in the nearest cache
  const size_t ranks = base.size(), values = base[0].size();
  std::vector<float> sums(values), mine(ranks * kStretch);
  for (size_t from = 0; from < values; from += kStretch) {
    const size_t count = std::min(kStretch, values - from);
    float* const sum = sums.data() + from;
    for (size_t r = 0; r < ranks; ++r) std::copy_n(base[r].data() + from, count, mine.data() + r * kStretch);
    for (int call = 0; call < calls; ++call) {
      for (size_t i = 0; i < count; ++i) sum[i] = unmarked(mine[i]);
      for (size_t r = 1; r < ranks; ++r)
        for (size_t i = 0; i < count; ++i) sum[i] = sum[i] + unmarked(mine[r * kStretch + i]);
      if (!one_hop)
        for (size_t i = 0; i < count; ++i) sum[i] = unmarked(sum[i]);
      const uint32_t bits = (static_cast<uint32_t>(call) + 1) * kVariation >> 20 & kVaried;
      for (size_t r = 0; r < ranks; ++r)
        for (size_t i = 0; i < count; ++i) mine[r * kStretch + i] = varied(base[r][from + i], bits) + sum[i] * kFeedback;
    }
  }
  return sums;
}

int count_differences(const float* sums, const float* expected, int values, std::string& text) {
  int differences = 0;
  for (int i = 0; i < values; ++i) {
    const uint32_t is = std::bit_cast<uint32_t>(sums[i]), must = std::bit_cast<uint32_t>(expected[i]);
    if (is == must) continue;
    if (differences++ == 0) {
      char line[120];
      std::snprintf(line, sizeof line, "row %d, column %d: the sum has the bits %08x, in the order of ranks it has %08x", i / kCollectiveHidden,
                    i % kCollectiveHidden, is, must);
      text = line;
    }
  }
  return differences;
}

bool sound(const Collectives& collectives) {
  return collectives.wrong.empty() && std::all_of(collectives.planted.begin(), collectives.planted.end(), [](const PlantedMistake& p) { return p.seen > 0; });
}

}  // namespace kilotoken::bench
