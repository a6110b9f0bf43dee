// kernels/comm/all_reduce.cuh as kernels/bench/collectives.cu repeats it, on threads of the host: a few values of every rank, each rank's threads beside the others'.
//   all_reduce_probe sums RANKS one-hop|two-hops random|cancelling   the expected sums of 16 calls, binary32, to stdout
//   all_reduce_probe run RANKS FORM DATA CALLS ORDER MARKS           "N of M differ"; ORDER straight or reversed, MARKS 1 or 0
//   all_reduce_probe json LACK                                       samples of two ranks, made up but for their shape, as measure_collectives would hand them over
//   all_reduce_probe alone FORM MARKS CALLS                          rank 0 of 2 goes on after rank 1 has ended: "waited in call N" or "went through"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/bench/collectives_call.cuh"

using namespace kilotoken;

namespace {

constexpr int kGroups = bench::kCollectiveHidden / 128;

// The memory of one GPU.
struct Gpu {
  explicit Gpu(int ranks) : inbox(size_t{2} * kGroups * stack::kGroupFloats * ranks), outbox(size_t{kGroups} * stack::kGroupFloats), sums(size_t{8} * bench::kCollectiveHidden) {}
  std::vector<float> inbox, outbox, base, sums;
};

struct Spot {
  int row, group, lane;
};
constexpr Spot kSpots[] = {{0, 0, 0}, {5, 1, 31}, {7, 47, 3}};

void calls(std::vector<Gpu>& gpus, const std::vector<int>& order, int g, Spot spot, bool one_hop, uint32_t marks, uint32_t count) {
  stack::Comm comm;
  comm.ranks = static_cast<int>(gpus.size());
  comm.rank = order[g];
  comm.one_hop = one_hop;
  for (size_t other = 0; other < gpus.size(); ++other) comm.inbox[order[other]] = gpus[other].inbox.data(), comm.outbox[order[other]] = gpus[other].outbox.data();
  const int column = spot.lane * 4, at = spot.row * bench::kCollectiveHidden + spot.group * 128 + column;
  float4 base, sum{};
  std::memcpy(&base, gpus[g].base.data() + at, sizeof base);
  float4 mine = base;
  stack::Place b;
  for (uint32_t call = 0; call < count; ++call) {
    b.call = call;
    sum = bench::repeat_call(comm, b, call, marks, spot.group, kGroups, spot.row * 128 + column, base, mine);
  }
  std::memcpy(gpus[g].sums.data() + at, &sum, sizeof sum);
}

std::vector<Gpu> make(int ranks, bench::Data data) {
  std::vector<Gpu> gpus;
  for (int r = 0; r < ranks; ++r) {
    gpus.emplace_back(ranks);
    gpus.back().base = bench::collective_base(data, r, ranks);
  }
  return gpus;
}

std::vector<std::vector<float>> bases(const std::vector<Gpu>& gpus) {
  std::vector<std::vector<float>> out;
  for (const Gpu& gpu : gpus) out.push_back(gpu.base);
  return out;
}

int run(int ranks, bool one_hop, bench::Data data, int count, bool reversed, uint32_t marks) {
  std::vector<Gpu> gpus = make(ranks, data);
  std::vector<int> order;
  for (int g = 0; g < ranks; ++g) order.push_back(reversed ? ranks - 1 - g : g);
  std::vector<std::thread> threads;
  for (int g = 0; g < ranks; ++g)
    for (const Spot spot : kSpots) threads.emplace_back([&, g, spot] { calls(gpus, order, g, spot, one_hop, marks, static_cast<uint32_t>(count)); });
  for (std::thread& thread : threads) thread.join();
  const std::vector<float> expected = bench::expected_sums(bases(gpus), count, one_hop);
  int differ = 0, values = 0;
  for (const Gpu& gpu : gpus)
    for (const Spot spot : kSpots) {
      std::string text;
      const int at = spot.row * bench::kCollectiveHidden + spot.group * 128 + spot.lane * 4;
      differ += bench::count_differences(gpu.sums.data() + at, expected.data() + at, 4, text);
      values += 4;
    }
  std::printf("%d of %d differ\n", differ, values);
  return 0;
}

// Rank 1 does the calls that give every place its first use, and no more.
int alone(bool one_hop, uint32_t marks, int count) {
  std::vector<Gpu> gpus = make(2, bench::Data::kRandom);
  const std::vector<int> order{0, 1};
  const Spot spot{0, 1, 0};  // in two hops rank 1 makes the sums of this group
  std::thread other([&] { calls(gpus, order, 1, spot, one_hop, marks, one_hop ? 2 : 1); });
  ptx::patience = 2'000'000;
  try {
    calls(gpus, order, 0, spot, one_hop, marks, static_cast<uint32_t>(count));
    std::printf("went through\n");
  } catch (const ptx::RanOut& out) {
    std::printf("waited in call %u\n", out.call);
  }
  other.join();
  return 0;
}

bench::Collectives made_up(const std::string& lack) {
  bench::Collectives out;
  out.gpus = 2;
  out.gpu = "a \"GPU\"";
  const auto add = [&](const char* how, const char* arrangement, int rows, int launches) {
    for (int launch = 0; launch < launches; ++launch)
      for (int rank = 0; rank < 2; ++rank) out.launches.push_back({how, arrangement, rows, launch, rank, 12'000, 12'100, {8000, 8001, 7999}});
  };
  add("none", "barrier", 8, 2);
  for (const char* how : {"one-hop", "two-hops"}) {
    for (const char* arrangement : {"chain", "step"}) add(how, arrangement, 1, 1), add(how, arrangement, 8, 2);
    for (const char* data : {"random", "cancelling"}) out.checks.push_back({how, data, {}});
    out.planted.push_back({how, "marks of the use before", 7, 98'304});
  }
  out.nccl.batch = 200;
  out.nccl.lack = lack;
  if (lack.empty()) {
    out.nccl.version = "2.28.9";
    for (const char* how : {"eager", "graph"})
      for (int rank = 0; rank < 2; ++rank) out.nccl.times.push_back({how, rank, {12.5, 12.25}});
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  const auto data = [](const std::string& name) { return name == "random" ? bench::Data::kRandom : bench::Data::kCancelling; };
  if (args.size() == 4 && args[0] == "sums") {
    const std::vector<float> sums = bench::expected_sums(bases(make(std::atoi(args[1].c_str()), data(args[3]))), bench::kCheckedCalls, args[2] == "one-hop");
    std::fwrite(sums.data(), sizeof(float), sums.size(), stdout);
    return 0;
  }
  if (args.size() == 7 && args[0] == "run")
    return run(std::atoi(args[1].c_str()), args[2] == "one-hop", data(args[3]), std::atoi(args[4].c_str()), args[5] == "reversed", args[6] == "1");
  if (args.size() == 2 && args[0] == "json") {
    std::puts(bench::collectives_json(made_up(args[1])).c_str());
    return 0;
  }
  if (args.size() == 4 && args[0] == "alone") return alone(args[1] == "one-hop", args[2] == "1", std::atoi(args[3].c_str()));
  return 2;
}
