#include "rendezvous.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "fault.h"

namespace kilotoken::fp8 {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr char kHelloMagic[8] = {'k', 't', 'r', 'a', 'n', 'k', 's', '1'};
constexpr char kAnswerMagic[8] = {'k', 't', 'm', 'e', 'e', 't', 's', '1'};
constexpr auto kHelloLimit = std::chrono::seconds(5);  // for a connection to say who it is
constexpr size_t kText = 200;

// Both have one layout on every machine this runs on (little-endian x86-64 and ARM64).
struct Hello {
  char magic[8];
  uint32_t rank, ranks;
  uint64_t purpose;
  char who[64];  // "pid 123 on host"
};
struct Answer {
  char magic[8];
  uint32_t accepted;
  char why[kText];
  uint8_t gift[128];
};
// After the meeting.
struct Note {
  uint32_t kind;  // kGoodbye or kFailed
  char why[kText];
};
constexpr uint32_t kGoodbye = 1, kFailed = 2;

class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  ~Socket() { close(); }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

std::string quoted(const char* text, size_t size) {
  std::string out;
  for (size_t i = 0; i < size && text[i] != '\0'; ++i) out += text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
  return out;
}

template <size_t N>
void put(char (&to)[N], const std::string& from) {
  std::memset(to, 0, N);
  std::memcpy(to, from.data(), std::min(from.size(), N - 1));
}

std::string who_am_i() {
  char host[48] = {};
  gethostname(host, sizeof host - 1);
  return "pid " + std::to_string(getpid()) + " on " + host;
}

void prepare(int fd) {
  const int one = 1, idle = 5, between = 2, times = 3;
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  // A machine that vanishes sends nothing: ask after 5 s, give up after 11.
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &between, sizeof between);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
}

int left(Clock::time_point deadline) {
  const auto ms = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(ms, 0, 1000));
}

enum class Io { kDone, kClosed, kLate };

// All `size` bytes before the deadline.
Io send_all(int fd, const void* data, size_t size, Clock::time_point deadline) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = ::send(fd, at, size, MSG_NOSIGNAL);
    if (n > 0) {
      at += n;
      size -= static_cast<size_t>(n);
      continue;
    }
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return Io::kClosed;
    if (Clock::now() >= deadline) return Io::kLate;
    pollfd p{fd, POLLOUT, 0};
    ::poll(&p, 1, left(deadline));
  }
  return Io::kDone;
}

Io receive_all(int fd, void* data, size_t size, Clock::time_point deadline) {
  char* at = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t n = ::recv(fd, at, size, 0);
    if (n > 0) {
      at += n;
      size -= static_cast<size_t>(n);
      continue;
    }
    if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) return Io::kClosed;
    if (Clock::now() >= deadline) return Io::kLate;
    pollfd p{fd, POLLIN, 0};
    ::poll(&p, 1, left(deadline));
  }
  return Io::kDone;
}

std::string seconds_text(milliseconds limit) {
  const auto tenths = limit.count() / 100;
  return tenths % 10 == 0 ? std::to_string(tenths / 10) + " s" : std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " s";
}

std::string place_text(const Meeting& m) { return m.address + ":" + std::to_string(m.port); }

// What a connection to rank 0 has said so far.
struct Visitor {
  Socket socket;
  Clock::time_point since;
  size_t received = 0;
  Hello hello{};
};

struct Peer {
  uint32_t rank = 0;
  Socket socket;
  std::string who;
  size_t received = 0;
  Note note{};
};

// Why a visitor cannot be the rank it says it is, or empty.
std::string mismatch(const Meeting& m, const Hello& hello, const std::vector<Peer>& peers, const std::string& host) {
  const std::string who = quoted(hello.who, sizeof hello.who);
  if (hello.ranks != m.ranks)
    return "rank " + std::to_string(hello.rank) + " (" + who + ") was started as one of " + std::to_string(hello.ranks) + " ranks, rank 0 as one of " + std::to_string(m.ranks);
  if (hello.rank == 0 || hello.rank >= m.ranks)
    return hello.rank == 0 ? "two processes are rank 0: " + host + " and " + who
                           : "rank " + std::to_string(hello.rank) + " (" + who + ") of " + std::to_string(m.ranks) + " ranks";
  for (const Peer& peer : peers)
    if (peer.rank == hello.rank) return "two processes are rank " + std::to_string(hello.rank) + ": " + peer.who + " and " + who;
  if (hello.purpose != m.purpose) return "rank " + std::to_string(hello.rank) + " (" + who + ") was started with other options than rank 0";
  return "";
}

void answer(int fd, bool accepted, const std::string& why, const MeetingGift& gift) {
  Answer a{};
  std::memcpy(a.magic, kAnswerMagic, sizeof a.magic);
  a.accepted = accepted ? 1 : 0;
  put(a.why, why);
  if (accepted) std::memcpy(a.gift, gift.data(), gift.size());
  send_all(fd, &a, sizeof a, Clock::now() + kHelloLimit);
}

Socket listen_at(const Meeting& m) {
  Socket socket(::socket(AF_INET6, SOCK_STREAM, 0));
  const bool six = static_cast<bool>(socket);
  if (!six) socket = Socket(::socket(AF_INET, SOCK_STREAM, 0));
  const int one = 1, zero = 0;
  setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  int bound = -1;
  if (six) {
    setsockopt(socket.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    sockaddr_in6 at{};
    at.sin6_family = AF_INET6;
    at.sin6_addr = in6addr_any;
    at.sin6_port = htons(m.port);
    bound = bind(socket.fd(), reinterpret_cast<sockaddr*>(&at), sizeof at);
  } else {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_ANY);
    at.sin_port = htons(m.port);
    bound = bind(socket.fd(), reinterpret_cast<sockaddr*>(&at), sizeof at);
  }
  if (bound != 0 || listen(socket.fd(), 256) != 0) {
    const bool taken = errno == EADDRINUSE;
    const std::string why = std::strerror(errno);
    throw RankFault("rank 0 cannot listen on port " + std::to_string(m.port) + ": " + why + (taken ? " (another process is rank 0, or MASTER_PORT is taken)" : ""));
  }
  prepare(socket.fd());
  return socket;
}

std::vector<Peer> receive_ranks(const Meeting& m, const MeetingGift& gift) {
  const Socket door = listen_at(m);
  const std::string self = who_am_i();
  const auto deadline = Clock::now() + m.limit;
  std::vector<Visitor> visitors;
  std::vector<Peer> peers;
  const auto fail = [&](const std::string& why) {
    for (const Peer& peer : peers) answer(peer.socket.fd(), false, why, gift);
    throw RankFault(why);
  };
  while (peers.size() + 1 < m.ranks) {
    if (Clock::now() >= deadline) {
      std::string missing;
      size_t count = 0;
      for (uint32_t r = 1; r < m.ranks; ++r) {
        if (std::any_of(peers.begin(), peers.end(), [&](const Peer& peer) { return peer.rank == r; })) continue;
        if (++count <= 8) missing += (count > 1 ? ", " : "") + std::to_string(r);
      }
      if (count > 8) missing += ", ...";
      fail(std::to_string(count) + " of " + std::to_string(m.ranks) + " ranks did not come to " + place_text(m) + " within " + seconds_text(m.limit) + ": " + missing);
    }
    std::vector<pollfd> polled{{door.fd(), POLLIN, 0}};
    for (const Visitor& visitor : visitors) polled.push_back({visitor.socket.fd(), POLLIN, 0});
    for (const Peer& peer : peers) polled.push_back({peer.socket.fd(), POLLIN, 0});
    ::poll(polled.data(), polled.size(), std::min(left(deadline), 100));

    for (const Peer& peer : peers) {  // none of them speaks before it was answered
      char byte;
      const ssize_t n = ::recv(peer.socket.fd(), &byte, 1, MSG_PEEK);
      if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
        fail("rank " + std::to_string(peer.rank) + " (" + peer.who + ") ended while the ranks met");
    }
    for (Socket next(accept(door.fd(), nullptr, nullptr)); next; next = Socket(accept(door.fd(), nullptr, nullptr))) {
      prepare(next.fd());
      visitors.push_back({std::move(next), Clock::now(), 0, {}});
    }
    for (Visitor& visitor : visitors) {
      const ssize_t n = ::recv(visitor.socket.fd(), reinterpret_cast<char*>(&visitor.hello) + visitor.received, sizeof(Hello) - visitor.received, 0);
      if (n > 0) visitor.received += static_cast<size_t>(n);
      const bool closed = n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
      const size_t magic = std::min(visitor.received, sizeof kHelloMagic);
      const bool stranger = std::memcmp(visitor.hello.magic, kHelloMagic, magic) != 0;  // a port scan, another program
      if (closed || stranger || (visitor.received < sizeof(Hello) && Clock::now() - visitor.since > kHelloLimit)) {
        visitor.socket.close();
        continue;
      }
      if (visitor.received < sizeof(Hello)) continue;
      if (const std::string why = mismatch(m, visitor.hello, peers, self); !why.empty()) {
        answer(visitor.socket.fd(), false, why, gift);
        fail(why);
      }
      peers.push_back({visitor.hello.rank, std::move(visitor.socket), quoted(visitor.hello.who, sizeof visitor.hello.who), 0, {}});
    }
    std::erase_if(visitors, [](const Visitor& visitor) { return !visitor.socket; });
  }
  for (const Peer& peer : peers) answer(peer.socket.fd(), true, "", gift);
  return peers;
}

// A connection to rank 0, which may not be there yet.
Socket reach(const Meeting& m, Clock::time_point deadline) {
  std::string why = "no answer";
  while (Clock::now() < deadline) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    if (const int error = getaddrinfo(m.address.c_str(), std::to_string(m.port).c_str(), &hints, &found); error != 0) {
      why = gai_strerror(error);
    } else {
      for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
        Socket socket(::socket(at->ai_family, at->ai_socktype, at->ai_protocol));
        if (!socket) continue;
        prepare(socket.fd());
        int error = connect(socket.fd(), at->ai_addr, at->ai_addrlen) == 0 ? 0 : errno;
        if (error == EINPROGRESS) {
          pollfd p{socket.fd(), POLLOUT, 0};
          socklen_t size = sizeof error;
          if (::poll(&p, 1, left(deadline)) != 1) error = ETIMEDOUT;
          else getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
        }
        if (error == 0) {
          freeaddrinfo(found);
          return socket;
        }
        why = std::strerror(error);
      }
      freeaddrinfo(found);
    }
    std::this_thread::sleep_for(milliseconds(std::min(100, left(deadline))));
  }
  throw RankFault("no rank 0 at " + place_text(m) + " within " + seconds_text(m.limit) + ": " + why);
}

Peer visit(const Meeting& m, MeetingGift& gift) {
  const auto deadline = Clock::now() + m.limit;
  Socket socket = reach(m, deadline);
  Hello hello{};
  std::memcpy(hello.magic, kHelloMagic, sizeof hello.magic);
  hello.rank = m.rank;
  hello.ranks = m.ranks;
  hello.purpose = m.purpose;
  put(hello.who, who_am_i());
  Answer a{};
  // Rank 0 may have been there first and wait as long as it was told to; it always answers.
  Io io = send_all(socket.fd(), &hello, sizeof hello, deadline);
  if (io == Io::kDone) io = receive_all(socket.fd(), &a, sizeof a, deadline + kHelloLimit);
  if (io == Io::kLate) throw RankFault("rank 0 at " + place_text(m) + " did not answer within " + seconds_text(m.limit));
  if (io == Io::kClosed) throw RankFault("rank 0 at " + place_text(m) + " closed the connection while the ranks met: it ended, or something else listens there");
  if (std::memcmp(a.magic, kAnswerMagic, sizeof a.magic) != 0) throw RankFault("what answers at " + place_text(m) + " is no rank 0 of this program");
  if (a.accepted != 1) throw RankFault(quoted(a.why, sizeof a.why));
  std::memcpy(gift.data(), a.gift, gift.size());
  return {0, std::move(socket), "at " + m.address, 0, {}};
}

}  // namespace

struct Rendezvous::State {
  uint32_t rank;
  std::vector<Peer> peers;  // of rank 0: all others; of the others: rank 0
  std::string trouble;
  bool told = false;

  void send(uint32_t kind, const std::string& why, const Peer* but = nullptr) {
    Note note{};
    note.kind = kind;
    put(note.why, why);
    for (const Peer& peer : peers)
      if (peer.socket && &peer != but) send_all(peer.socket.fd(), &note, sizeof note, Clock::now() + std::chrono::seconds(1));
  }
};

Rendezvous::Rendezvous(std::unique_ptr<State> state) : s_(std::move(state)) {}

Rendezvous::~Rendezvous() {
  if (!s_->told && s_->trouble.empty()) s_->send(kGoodbye, "");
}

std::unique_ptr<Rendezvous> Rendezvous::meet(const Meeting& meeting, MeetingGift& gift) {
  auto state = std::make_unique<State>();
  state->rank = meeting.rank;
  if (meeting.rank == 0) state->peers = receive_ranks(meeting, gift);
  else state->peers.push_back(visit(meeting, gift));
  return std::unique_ptr<Rendezvous>(new Rendezvous(std::move(state)));
}

std::string Rendezvous::trouble() {
  if (!s_->trouble.empty()) return s_->trouble;
  for (Peer& peer : s_->peers) {
    if (!peer.socket) continue;
    std::string why;
    const ssize_t n = ::recv(peer.socket.fd(), reinterpret_cast<char*>(&peer.note) + peer.received, sizeof(Note) - peer.received, 0);
    if (n > 0) {
      peer.received += static_cast<size_t>(n);
      if (peer.received < sizeof(Note)) continue;
      peer.received = 0;
      if (peer.note.kind == kGoodbye) {
        peer.socket.close();
        continue;
      }
      why = quoted(peer.note.why, sizeof peer.note.why);
      if (peer.note.kind != kFailed) why = "rank " + std::to_string(peer.rank) + " (" + peer.who + ") sent what no rank sends";
    } else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
      why = "rank " + std::to_string(peer.rank) + " (" + peer.who + ") is gone: its process or machine ended";
    }
    if (why.empty()) continue;
    s_->trouble = why;
    if (s_->rank == 0) s_->send(kFailed, why, &peer);
    return why;
  }
  return "";
}

void Rendezvous::tell(const std::string& why) {
  if (s_->told) return;
  s_->told = true;
  s_->send(kFailed, "rank " + std::to_string(s_->rank) + ": " + why);
}

}  // namespace kilotoken::fp8
