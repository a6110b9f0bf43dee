// How the processes of one run find each other: every rank connects to rank 0 over TCP, says who it is and what it was asked to run, and receives
// what rank 0 hands out (the id of the NCCL communicator). The connections stay open for the run: NCCL does not notice that a process on
// the same machine was killed, a closed connection does. Every wait is bounded. Trusts the network it runs on: no secret is
// exchanged. Free of CUDA.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

namespace kilotoken::fp8 {

using MeetingGift = std::array<uint8_t, 128>;

struct Meeting {
  std::string address;  // name or number of rank 0's machine
  uint16_t port = 0;
  uint32_t rank = 0, ranks = 1;
  uint64_t purpose = 0;  // a digest of what this process was asked to run; all ranks must agree
  std::chrono::milliseconds limit = std::chrono::seconds(60);
};

class Rendezvous {
 public:
  // Returns when all ranks are there. gift: given by rank 0, received by the others. Throws RankFault: no rank 0, ranks that did not come (by
  // number), another number of ranks, two processes with one rank, another purpose, an answer from something else.
  static std::unique_ptr<Rendezvous> meet(const Meeting& meeting, MeetingGift& gift);
  ~Rendezvous();  // says goodbye, so that the others do not take it for a death
  Rendezvous(const Rendezvous&) = delete;
  Rendezvous& operator=(const Rendezvous&) = delete;

  // What has happened to another rank since the meeting, or empty. Does not wait. Rank 0 passes on what it sees. For one thread.
  std::string trouble();
  // Tells the others why this rank can go on no more.
  void tell(const std::string& why);

 private:
  struct State;
  explicit Rendezvous(std::unique_ptr<State> state);
  std::unique_ptr<State> s_;
};

}  // namespace kilotoken::fp8
