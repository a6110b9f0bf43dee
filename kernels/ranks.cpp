#include "ranks.h"

#include <algorithm>
#include <cstdio>

#include "device_memory.h"

namespace kilotoken::stack {

namespace {

constexpr uint32_t kPeer = 9, kNoToken = 100, kNaN = 101;

// By ptx::Wait.
constexpr const char* kWaits[] = {"", "a page of weights", "a free page", "the inputs of a step", "an accumulator", "a free accumulator",
                                  "the choice of experts", "the instruction before", "the sums of a linear", "another GPU"};

std::string what_waited(uint32_t code) { return code < std::size(kWaits) ? kWaits[code] : "something unknown (" + std::to_string(code) + ")"; }

std::string seconds(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s", value);
  return text;
}

class Judge {
 public:
  explicit Judge(const std::vector<RankEnd>& ends) : ends_(ends) {}

  std::string where(size_t rank) const {
    const RankEnd& end = ends_[rank];
    return " (rank " + std::to_string(rank) + (ends_.size() > 1 ? " on GPU " + std::to_string(end.device) : "") + ", block " + std::to_string(end.block) +
           ", instruction " + std::to_string(end.detail) + ")";
  }
  std::string name(size_t rank) const { return "rank " + std::to_string(rank) + " on GPU " + std::to_string(ends_[rank].device); }

  template <class Is>
  std::optional<size_t> first(Is is) const {
    const auto found = std::find_if(ends_.begin(), ends_.end(), is);
    return found == ends_.end() ? std::nullopt : std::optional<size_t>(found - ends_.begin());
  }
  // Of all ranks that are so: their names, and what is said of them.
  template <class Is>
  std::vector<size_t> all(Is is) const {
    std::vector<size_t> ranks;
    for (size_t r = 0; r < ends_.size(); ++r)
      if (is(ends_[r])) ranks.push_back(r);
    return ranks;
  }
  std::string names(const std::vector<size_t>& ranks) const {
    std::string text;
    for (size_t i = 0; i < ranks.size(); ++i) text += (i == 0 ? "" : i + 1 < ranks.size() ? ", " : " and ") + name(ranks[i]);
    return text;
  }
  std::string errors(const std::vector<size_t>& ranks) const {
    std::string text;
    for (const size_t r : ranks)
      if (text.find(ends_[r].error) == std::string::npos) text += (text.empty() ? "" : ", ") + ends_[r].error;
    return text;
  }
  // The first whose wait ran out; nobody: empty.
  std::string who_waited() const {
    const auto waited = [](const RankEnd& end) { return end.code != 0; };
    const auto rank = first(waited);
    if (!rank) return "";
    const auto others = std::count_if(ends_.begin(), ends_.end(), waited) - 1;
    return name(*rank) + (others > 0 ? " and " + std::to_string(others) + " more" : "") + " waited too long, for " + what_waited(ends_[*rank].code) +
           " (block " + std::to_string(ends_[*rank].block) + ", instruction " + std::to_string(ends_[*rank].detail) + ")";
  }
  // The same as the end of a sentence about another one.
  std::string and_who_waited() const {
    const std::string text = who_waited();
    return text.empty() ? "" : "; " + text;
  }

 private:
  const std::vector<RankEnd>& ends_;
};

}  // namespace

void link_gpus(const std::vector<int>& devices) {
  for (const int from : devices) {
    check(cudaSetDevice(from), "the GPU");
    for (const int to : devices) {
      if (from == to) continue;
      const auto refused = [&](const char* how, const std::string& why) {
        throw DeviceError("GPU " + std::to_string(from) + " " + how + " the memory of GPU " + std::to_string(to) + ": " + why);
      };
      int reaches = 0;
      if (const cudaError_t status = cudaDeviceCanAccessPeer(&reaches, from, to); status != cudaSuccess) refused("cannot be asked for", cudaGetErrorString(status));
      if (reaches == 0) refused("cannot reach", "no peer access");
      const cudaError_t status = cudaDeviceEnablePeerAccess(to, 0);
      cudaGetLastError();
      if (status != cudaSuccess && status != cudaErrorPeerAccessAlreadyEnabled) refused("was refused", cudaGetErrorString(status));
    }
  }
}

std::optional<RankFailure> judge_ranks(const std::vector<RankEnd>& ends, double waited) {
  const Judge judge(ends);
  const auto code_of = [&](std::optional<size_t> rank) { return rank ? ends[*rank].code : 0; };
  const auto waiting = judge.first([](const RankEnd& end) { return end.code != 0; });
  if (const auto rank = judge.first([](const RankEnd& end) { return end.code == kNoToken || end.code == kNaN; }))
    return RankFailure{(ends[*rank].code == kNaN ? "the model produced a logit that is not a number" : "the model produced a row without any token") + judge.where(*rank),
                       ends[*rank].code};
  const auto failed = [](const RankEnd& end) { return end.ended && !end.error.empty() && end.code == 0; };
  const std::vector<size_t> silent = judge.all(failed), first = judge.all([&](const RankEnd& end) { return failed(end) && !end.later; });
  if (first.size() == 1)
    return RankFailure{judge.names(first) + (silent.size() > 1 && !waiting ? " failed first: " : " failed: ") + judge.errors(first) + judge.and_who_waited(), code_of(waiting)};
  if (!first.empty())
    return RankFailure{judge.names(first) + " failed together: " + judge.errors(first) + "; an error of one GPU reaches the others, and which had it cannot be told" + judge.and_who_waited(),
                       code_of(waiting)};
  if (const auto rank = judge.first([](const RankEnd& end) { return !end.ended; }))
    return RankFailure{judge.name(*rank) + " did not end its kernel, the host waited " + seconds(waited) + " for it" + judge.and_who_waited(), code_of(waiting)};
  if (!waiting) return std::nullopt;
  if (const auto rank = judge.first([](const RankEnd& end) { return end.code == 0 && end.error.empty(); }))
    return RankFailure{judge.name(*rank) + " was missing: its kernel had ended or was never launched" + judge.and_who_waited(), code_of(waiting)};
  if (!silent.empty()) return RankFailure{judge.who_waited() + ", while " + judge.names(silent) + " still ran", code_of(waiting)};
  // All of them: one that waited for something of its own rather than for a GPU.
  const size_t rank = judge.first([](const RankEnd& end) { return end.code != kPeer; }).value_or(*waiting);
  return RankFailure{"the kernel waited too long for " + what_waited(ends[rank].code) + judge.where(rank), ends[rank].code};
}

void await_ranks(const std::vector<RankWait>& ranks, const std::function<uint64_t()>& progress, const Patience& patience) {
  using Clock = std::chrono::steady_clock;
  std::vector<RankEnd> ends(ranks.size());
  for (size_t r = 0; r < ranks.size(); ++r) ends[r].device = ranks[r].device;
  size_t open = ranks.size();
  bool failed = false;
  uint64_t seen = progress();
  auto last = Clock::now();  // when anything was heard; from the first failure on, that
  while (open > 0) {
    bool heard = false;
    for (size_t r = 0; r < ranks.size(); ++r) {
      if (ends[r].ended) continue;
      cudaError_t status = cudaSetDevice(ranks[r].device);  // of a GPU that failed it may fail too
      if (status == cudaSuccess) status = cudaStreamQuery(ranks[r].stream);
      if (status == cudaErrorNotReady) {
        ends[r].later = failed;
        continue;
      }
      ends[r].ended = heard = true;
      --open;
      if (status == cudaSuccess) continue;
      ends[r].error = cudaGetErrorString(status);
      // A kernel leaves its fault before it stops.
      for (size_t other = 0; other < ranks.size(); ++other) ends[r].later |= other != r && ranks[other].fault[0] != 0;
      if (!failed) last = Clock::now();
      failed = true;
    }
    if (const uint64_t now = progress(); now != seen) seen = now, heard = true;
    const auto now = Clock::now();
    if (heard && !failed) last = now;
    if (now - last > (failed ? patience.others : patience.quiet)) break;
  }
  cudaGetLastError();  // a stream that is not ready counts as an error to whoever asks for the last one
  if (open > 0) lose_device();
  for (size_t r = 0; r < ranks.size(); ++r) ends[r].code = ranks[r].fault[0], ends[r].block = ranks[r].fault[1], ends[r].detail = ranks[r].fault[2];
  // One GPU has nobody else to be named.
  if (ends.size() == 1 && ends[0].ended && ends[0].code == 0 && !ends[0].error.empty()) throw DeviceError("the kernel: " + ends[0].error);
  const double waited = std::chrono::duration<double>(failed ? patience.others : patience.quiet).count();
  if (const auto failure = judge_ranks(ends, waited)) throw KernelFault(failure->text, failure->code);
}

}  // namespace kilotoken::stack
