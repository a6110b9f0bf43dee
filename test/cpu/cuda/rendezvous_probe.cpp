// One process of a meeting, for rendezvous.test.ts.
//   meet RANK RANKS ADDRESS PORT PURPOSE LIMIT_MS [AFTER]   prints "met GIFT" or "fault: WHY" (exit status 3); AFTER: what to do then
//       bye: end; watch MS: look for trouble and print it; tell TEXT: say why this rank stops, and wait a moment; hang: wait to be killed
//   launch                                                  prints what the environment says
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>

#include "reference/fp8/fault.h"
#include "reference/fp8/launch.h"
#include "reference/fp8/rendezvous.h"

using namespace kilotoken::fp8;

namespace {

void watch(Rendezvous& meeting, long ms) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
  while (std::chrono::steady_clock::now() < deadline) {
    if (const std::string trouble = meeting.trouble(); !trouble.empty()) {
      std::printf("trouble: %s\n", trouble.c_str());
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::printf("no trouble\n");
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::string what = argc > 1 ? argv[1] : "";
  try {
    if (what == "launch") {
      const Launch l = read_launch();
      std::printf("%s: rank %u of %u, local %u, %s:%u\n", l.by.c_str(), l.rank, l.ranks, l.local_rank, l.address.c_str(), l.port);
      return 0;
    }
    if (what != "meet" || argc < 8) return 2;
    Meeting m;
    m.rank = static_cast<uint32_t>(std::stoul(argv[2]));
    m.ranks = static_cast<uint32_t>(std::stoul(argv[3]));
    m.address = argv[4];
    m.port = static_cast<uint16_t>(std::stoul(argv[5]));
    m.purpose = std::stoull(argv[6]);
    m.limit = std::chrono::milliseconds(std::stol(argv[7]));
    MeetingGift gift{};
    if (m.rank == 0)
      for (size_t i = 0; i < gift.size(); ++i) gift[i] = static_cast<uint8_t>(i * 7 + 1);
    const auto meeting = Rendezvous::meet(m, gift);
    unsigned sum = 0;
    for (size_t i = 0; i < gift.size(); ++i) sum = sum * 31 + gift[i];
    std::printf("met %08x\n", sum);
    const std::string after = argc > 8 ? argv[8] : "bye";
    if (after == "watch") watch(*meeting, argc > 9 ? std::stol(argv[9]) : 1000);
    if (after == "tell") {
      meeting->tell(argc > 9 ? argv[9] : "");
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    if (after == "hang") std::this_thread::sleep_for(std::chrono::seconds(30));
    return 0;
  } catch (const RankFault& fault) {
    std::printf("fault: %s\n", fault.what());
    return 3;
  }
}
