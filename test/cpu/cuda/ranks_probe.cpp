// Waits for ranks whose kernels end as the arguments say, and prints what came of it: kind of error, milliseconds, whether the GPU was given up, what can still
// be freed, the error that the next one to ask would find, and the text. Arguments: quiet others (milliseconds), progress (milliseconds of signs of life), then a rank
// each: GPU,end,status,code,block,instruction (end in milliseconds, -1: never; a fault is left 5 ms before it). With `links` and GPUs: opens their memory to each other.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/device_memory.h"
#include "kernels/ranks.h"

using namespace kilotoken::stack;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

int links(const std::vector<int>& gpus) {
  std::string text;
  try {
    link_gpus(gpus);
  } catch (const DeviceError& error) {
    text = error.what();
  }
  std::printf("%s\n%d\n%s\n", enabled.c_str(), static_cast<int>(last_error), text.c_str());
  return 0;
}

int main(int argc, char** argv) {
  if (std::strcmp(argv[1], "links") == 0) {
    std::vector<int> gpus;
    for (int i = 2; i < argc; ++i) gpus.push_back(std::atoi(argv[i]));
    return links(gpus);
  }
  const auto began = Clock::now();
  const Patience patience{milliseconds(std::atoi(argv[1])), milliseconds(std::atoi(argv[2]))};
  const milliseconds alive(std::atoi(argv[3]));
  std::vector<FakeStream> streams(static_cast<size_t>(argc - 4));
  std::vector<std::vector<uint32_t>> faults(streams.size()), left(streams.size());
  std::vector<RankWait> ranks;
  for (size_t r = 0; r < streams.size(); ++r) {
    int gpu = 0, end = 0, status = 0;
    unsigned code = 0, block = 0, detail = 0;
    if (std::sscanf(argv[4 + r], "%d,%d,%d,%u,%u,%u", &gpu, &end, &status, &code, &block, &detail) != 6) return 2;
    streams[r] = {end < 0 ? Clock::time_point::max() : began + milliseconds(end), static_cast<cudaError_t>(status)};
    faults[r] = {0, 0, 0};
    left[r] = {code, block, detail};
    ranks.push_back({gpu, &streams[r], faults[r].data()});
  }
  if (const char* gone = std::getenv("GONE")) gone_gpu = std::atoi(gone);
  std::string kind = "none", text;
  {
    const Device<int> memory(4);
    before_query = [&](Clock::time_point now) {
      for (size_t r = 0; r < streams.size(); ++r)
        if (now >= streams[r].ends - milliseconds(5)) std::copy(left[r].begin(), left[r].end(), faults[r].begin());
    };
    const auto progress = [&]() -> uint64_t { return static_cast<uint64_t>(std::min<milliseconds>(alive, std::chrono::duration_cast<milliseconds>(Clock::now() - began)).count()); };
    try {
      await_ranks(ranks, progress, patience);
    } catch (const KernelFault& fault) {
      kind = "fault " + std::to_string(fault.code), text = fault.what();
    } catch (const DeviceError& error) {
      kind = "error", text = error.what();
    }
  }
  const auto ms = std::chrono::duration_cast<milliseconds>(Clock::now() - began).count();
  std::printf("%s\n%lld\n%d\n%d\n%d\n%s\n", kind.c_str(), static_cast<long long>(ms), device_lost(), freed, static_cast<int>(last_error), text.c_str());
}
