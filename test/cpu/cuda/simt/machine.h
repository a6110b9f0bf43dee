// A GPU in software, as far as the stack's kernel asks for one: every thread of every block is a fiber, one host thread runs them, and which of those that can
// go on does so is drawn from a seed. What is asynchronous on the GPU is late here: a bulk copy arrives at some later moment, cp.async not before it is waited for, a
// warpgroup's product reads its operands only when it is waited for, and its accumulator holds NaN until then. So a wait that is missing shows, in some schedule.
// Memory is that of one processor: every store is seen at once, by all, in the order of the program. Races on weak memory, proxies without a fence, bank conflicts and time
// do not exist here, and tensor cores add exactly.
#pragma once

#include <time.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace simt {

struct Dim {
  unsigned x, y, z;
  Dim(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the fiber in progress.
extern Dim thread_index, block_index, block_size, grid_size;

// --- for the host

// The seed is KILOTOKEN_SIMT_SEED, or 1; one sequence of draws serves all launches of a process.
using Stream = int;  // 0 is everybody's
Stream make_stream();
// Queued behind what the stream has. Blocks of all grids at the head of a stream run side by side.
void launch(std::function<void()> kernel, Dim grid, Dim block, size_t shared_bytes, Stream stream);
// Until the stream is empty; false, from then on, if a kernel stopped itself.
bool finish(Stream stream);
void finish_all();
// A bounded number of steps; whether the stream is empty by then.
bool step(Stream stream);
bool failed();
// In the place of the host's clock: the time that this process had. A simulated round takes seconds, and nobody's patience may end because the machine had much
// else to do.
struct HostClock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<HostClock>;
  static constexpr bool is_steady = true;
  static time_point now() {
    timespec had;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &had);
    return time_point(std::chrono::seconds(had.tv_sec) + std::chrono::nanoseconds(had.tv_nsec));
  }
};

// --- for a kernel

uint8_t* shared_memory();
uint8_t* static_memory();  // of the block too, 256 bytes: for variables that are declared shared
uint32_t shared_offset(const void* pointer);
void* shared_pointer(uint32_t offset);  // of 16 aligned bytes that instructions read through an address of shared memory

// Lets others run; comes back when nobody else can go on, or by chance.
void pause();
// Of a warp, all of whose 32 lanes must come, to the same `what`: `mine` of every lane is looked at by `act`, once, when the last has come.
void warp(const char* what, void* mine, const std::function<void(void* const (&of)[32])>& act);
// The same of a warpgroup, 128 threads.
void warpgroup(const char* what, void* mine, const std::function<void(void* const (&of)[128])>& act);
// A named barrier.
void barrier(int id, int threads);
void barrier_without_waiting(int id, int threads);

// An mbarrier in eight bytes of shared memory.
void init(uint64_t* barrier, uint32_t arrivals);
void arrive(uint64_t* barrier, uint32_t bytes_to_come);
bool passed_already(uint64_t* barrier, uint32_t parity);
bool passed(uint64_t* barrier, uint32_t parity);  // waits for it; false: nothing moves any more, look at the clock
// Arrives at some later moment, and is counted on `barrier` then.
void copy_later(void* to, const void* from, uint32_t bytes, uint64_t* barrier);
// Arrives when the calling thread waits for its copies.
void copy_when_waited(void* to, const void* from, uint32_t bytes);
void commit_copies();
void wait_copies(int pending);

long long clock();
[[noreturn]] void trap();

// --- products of the calling thread's warpgroup

struct Product {
  enum Kind { kE4m3Registers, kE4m3, kBf16 } kind;
  bool add;
  int columns;      // 8 or 16
  float* d;         // [columns / 2]
  uint32_t a[4];    // registers, or
  uint64_t a_from;  // a descriptor of shared memory
  uint64_t b_from;
};
void issue(const Product& product);
void commit();
void wait_products(int pending);

}  // namespace simt
