#include "machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>

#include "core/bf16.h"
#include "core/e4m3.h"

#if !defined(__x86_64__)
#error "the switch between fibers is written for x86-64"
#endif

// Saves what a function must leave alone, on the stack it leaves, and goes on where `to` was left.
extern "C" void simt_switch(void** from, void* to);
asm(R"(
.text
.globl simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
)");

namespace simt {

Dim thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t kStack = 128 * 1024;
constexpr size_t kColours = 64, kColour = 9 * 64;  // stacks begin at so many places of their page and the next ones: caches look lines up by low bits of the address
constexpr int kStaleRounds = 50;  // of all that poll, without anybody having moved: only the clock can end it

struct Group;
struct Block;
struct Grid;

struct Fiber {
  void* at = nullptr;  // its stack pointer
  uint8_t* stack = nullptr;
  Block* block = nullptr;
  unsigned thread = 0;
  bool gave_up = false;  // of a wait for an mbarrier
  struct Copy {
    void* to;
    int group;
    uint8_t bytes[16];
  };
  std::vector<Copy> copies;
  int copy_groups = 0;
  std::vector<Product> products;  // issued, and not yet carried out
  std::vector<size_t> groups;     // where each committed group of them ends
};

// Threads that act together: a warp or a warpgroup.
struct Group {
  const char* what = nullptr;
  int arrived = 0;
  void* of[128] = {};
  std::vector<Fiber*> waiting;
};

struct NamedBarrier {
  int arrived = 0, threads = 0;
  std::vector<Fiber*> waiting;
};

struct Block {
  Grid* grid = nullptr;
  unsigned index = 0;
  size_t live = 0;
  uint8_t* shared = nullptr;
  size_t shared_bytes = 0;
  std::vector<Fiber> fibers;
  std::vector<Group> warps, warpgroups;
  NamedBarrier barriers[16];
};

struct Grid {
  std::function<void()> kernel;
  Dim grid, block;
  size_t shared_bytes = 0;
  Stream stream = 0;
  unsigned begun = 0, ended = 0;  // blocks
  std::vector<std::unique_ptr<Block>> blocks;  // in progress
};


// Eight bytes of shared memory.
struct Mbarrier {
  uint16_t expected, pending;
  uint32_t phase : 1;
  int32_t bytes : 31;
};
static_assert(sizeof(Mbarrier) == 8);

struct Arrival {
  void* to;
  const void* from;
  uint32_t bytes;
  uint64_t* barrier;
  bool late;  // not before nothing else can go on
};

struct Machine {
  std::recursive_mutex host;  // loaders are threads; kernels run in whichever asks
  std::mt19937_64 random;
  std::map<Stream, std::list<std::unique_ptr<Grid>>> streams;
  Stream next_stream = 1;
  std::vector<Fiber*> ready, polling;
  std::vector<Block*> ended;
  std::vector<Arrival> arrivals;
  std::unordered_map<uint64_t*, std::vector<Fiber*>> at_barrier;
  std::map<unsigned, std::vector<std::unique_ptr<Block>>> blocks;  // to be used again, by their number of threads
  Fiber* now = nullptr;
  void* home = nullptr;  // the host's stack pointer
  long long clock = 1;
  bool moved = true, paused = false, stopped = false;
  int stale = 0;
  Machine() {
    const char* text = std::getenv("KILOTOKEN_SIMT_SEED");
    random.seed(text == nullptr ? 1 : std::strtoull(text, nullptr, 10));
  }
};
Machine the_machine;
Machine& m() { return the_machine; }

[[noreturn]] void broken(const std::string& text) {
  std::fflush(stdout);
  std::fprintf(stderr, "simt: %s (block %u, thread %u)\n", text.c_str(), block_index.x, thread_index.x);
  std::abort();
}

void wake(Fiber* fiber) {
  m().ready.push_back(fiber);
  m().moved = true;
}

void leave() {
  Machine& machine = m();
  Fiber* self = machine.now;
  simt_switch(&self->at, machine.home);
}

void end_of_fiber() {
  m().now->at = nullptr;
  m().moved = true;
  if (--m().now->block->live == 0) m().ended.push_back(m().now->block);
  void* nowhere;
  simt_switch(&nowhere, m().home);
}

void begin_of_fiber() {
  m().now->block->grid->kernel();
  end_of_fiber();
}

uint8_t* memory(size_t bytes) {
  void* const one = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (one == MAP_FAILED) broken("no memory for another block");
  return static_cast<uint8_t*>(one);
}

constexpr size_t kSharedBytes = 228 * 1024, kStaticBytes = 256;

std::unique_ptr<Block> make_block(unsigned threads) {
  auto block = std::make_unique<Block>();
  block->shared = memory(kSharedBytes + kStaticBytes);
  block->fibers.resize(threads);
  block->warps.resize((threads + 31) / 32);
  block->warpgroups.resize((threads + 127) / 128);
  uint8_t* const stacks = memory(threads * kStack);
  for (unsigned t = 0; t < threads; ++t) {
    block->fibers[t].block = block.get();
    block->fibers[t].thread = t;
    block->fibers[t].stack = stacks + t * kStack;
  }
  return block;
}

constexpr size_t kResident = 132;  // blocks of a grid that run side by side; others wait for a place

void begin_some(Grid& grid) {
  if (grid.begun == grid.grid.x || grid.blocks.size() == kResident) return;
  Machine& machine = m();
  const unsigned threads = grid.block.x;
  if (grid.block.y != 1 || grid.block.z != 1 || grid.grid.y != 1 || grid.grid.z != 1) broken("a grid of more than one dimension");
  if (grid.shared_bytes > kSharedBytes) broken("too much shared memory");
  std::vector<std::unique_ptr<Block>>& free = machine.blocks[threads];
  while (grid.begun < grid.grid.x && grid.blocks.size() < kResident) {
    std::unique_ptr<Block> block;
    if (free.empty()) block = make_block(threads);
    else block = std::move(free.back()), free.pop_back();
    block->grid = &grid;
    block->index = grid.begun++;
    block->live = threads;
    block->shared_bytes = grid.shared_bytes;
    std::memset(block->shared, 0xff, grid.shared_bytes);
    std::memset(block->shared + kSharedBytes, 0xff, kStaticBytes);
    for (Group& group : block->warps) group = {};
    for (Group& group : block->warpgroups) group = {};
    for (NamedBarrier& barrier : block->barriers) barrier = {};
    for (Fiber& fiber : block->fibers) {
      fiber.copies.clear();
      fiber.products.clear();
      fiber.groups.clear();
      void** top = reinterpret_cast<void**>(fiber.stack + kStack - 64 - fiber.thread % kColours * kColour);
      *top = reinterpret_cast<void*>(begin_of_fiber);  // where the switch returns to; the stack is then as behind a call
      fiber.at = top - 6;
      machine.ready.push_back(&fiber);
    }
    grid.blocks.push_back(std::move(block));
  }
}

void end_block(Block* block) {
  Grid& grid = *block->grid;
  ++grid.ended;
  const auto at = std::find_if(grid.blocks.begin(), grid.blocks.end(), [block](const auto& one) { return one.get() == block; });
  m().blocks[grid.block.x].push_back(std::move(*at));
  grid.blocks.erase(at);
}

void release(Grid& grid) {
  for (auto& block : grid.blocks) m().blocks[grid.block.x].push_back(std::move(block));
  grid.blocks.clear();
}

void settle(uint64_t* barrier) {
  Mbarrier& b = *reinterpret_cast<Mbarrier*>(barrier);
  if (b.pending != 0 || b.bytes != 0) return;
  b.phase ^= 1;
  b.pending = b.expected;
  const auto found = m().at_barrier.find(barrier);
  if (found == m().at_barrier.end()) return;
  for (Fiber* fiber : found->second) wake(fiber);
  m().at_barrier.erase(found);
}

// One of the copies under way; not a late one, unless `any`.
void deliver(bool any) {
  Machine& machine = m();
  std::swap(machine.arrivals[machine.random() % machine.arrivals.size()], machine.arrivals.back());
  if (machine.arrivals.back().late && !any) return;
  const Arrival a = machine.arrivals.back();
  machine.arrivals.pop_back();
  std::memcpy(a.to, a.from, a.bytes);
  reinterpret_cast<Mbarrier*>(a.barrier)->bytes -= static_cast<int32_t>(a.bytes);
  machine.moved = true;
  settle(a.barrier);
}

// All kernels end where they are.
void stop_everything() {
  Machine& machine = m();
  machine.stopped = true;
  machine.ended.clear();
  machine.ready.clear();
  machine.polling.clear();
  machine.arrivals.clear();
  machine.at_barrier.clear();
  for (auto& [id, queue] : machine.streams) {
    for (auto& grid : queue) release(*grid);
    queue.clear();
  }
}

// One fiber goes on for a while, or a copy arrives. False: nothing is left to do.
bool advance() {
  Machine& machine = m();
  for (Block* block : machine.ended) end_block(block);
  machine.ended.clear();
  for (auto& [id, queue] : machine.streams) {
    while (!queue.empty() && queue.front()->ended == queue.front()->grid.x) queue.pop_front();
    if (!queue.empty()) begin_some(*queue.front());
  }
  if (!machine.arrivals.empty() && (machine.ready.empty() || machine.random() % 16 == 0)) {
    deliver(machine.ready.empty());
    return true;
  }
  if (machine.ready.empty()) {
    if (machine.polling.empty() && machine.at_barrier.empty()) {
      for (auto& [id, queue] : machine.streams)
        if (!queue.empty()) broken("threads wait for others that have ended, or for one another");
      return false;
    }
    machine.stale = machine.moved ? 0 : machine.stale + 1;
    machine.moved = false;
    machine.ready.swap(machine.polling);
    if (machine.stale >= kStaleRounds || machine.ready.empty()) {  // nobody will ever move: time passes
      machine.stale = 0;
      machine.clock += 5'000'000'000;
      for (auto& [barrier, fibers] : machine.at_barrier) {
        for (Fiber* fiber : fibers) fiber->gave_up = true, machine.ready.push_back(fiber);
      }
      machine.at_barrier.clear();
    }
    return true;
  }
  std::swap(machine.ready[machine.random() % machine.ready.size()], machine.ready.back());
  Fiber* const fiber = machine.ready.back();
  machine.ready.pop_back();
  machine.now = fiber;
  thread_index.x = fiber->thread;
  block_index.x = fiber->block->index;
  block_size = fiber->block->grid->block;
  grid_size = fiber->block->grid->grid;
  ++machine.clock;
  machine.paused = false;
  simt_switch(&machine.home, fiber->at);
  if (!machine.paused) machine.moved = true;
  if (machine.stopped) stop_everything();
  return true;
}

// --- products

struct Matrix {
  const uint8_t* from;
  uint32_t along_k, along_rows;
  // Sixteen bytes of k of one row.
  const uint8_t* at(int row, int chunk) const { return from + row / 8 * along_rows + chunk * along_k + row % 8 * 16; }
};
Matrix described(const Block& block, uint64_t descriptor) {
  return {block.shared + ((descriptor & 0x3fff) << 4), static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4, static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4};
}

double value_of(uint16_t bf16) { return kilotoken::bf16_to_float(bf16); }

// One product of all 128 threads.
void multiply(const Block& block, Product* const (&of)[128]) {
  const Product& p = *of[0];
  for (const Product* other : of)
    if (other->kind != p.kind || other->b_from != p.b_from || other->add != p.add || (p.kind != Product::kE4m3Registers && other->a_from != p.a_from))
      broken("the threads of a warpgroup ask for different products");
  static double codes[256];
  if (codes[0x38] == 0)
    for (int i = 0; i < 256; ++i) codes[i] = kilotoken::e4m3_to_float(static_cast<uint8_t>(i));
  const int k = p.kind == Product::kBf16 ? 16 : 32, chunks = 2, each = k / chunks;
  double a[64][32], b[32][16] = {};
  const Matrix y = described(block, p.b_from);
  for (int n = 0; n < p.columns; ++n)
    for (int c = 0; c < chunks; ++c)
      for (int i = 0; i < each; ++i) {
        const uint8_t* from = y.at(n, c);
        uint16_t half;
        std::memcpy(&half, from + i * 2 % 16, 2);
        b[c * each + i][n] = p.kind == Product::kBf16 ? value_of(half) : codes[from[i]];
      }
  if (p.kind == Product::kE4m3Registers) {
    for (int t = 0; t < 128; ++t)
      for (int r = 0; r < 4; ++r)
        for (int i = 0; i < 4; ++i)
          a[t / 32 * 16 + t % 32 / 4 + r % 2 * 8][t % 4 * 4 + r / 2 * 16 + i] = codes[of[t]->a[r] >> 8 * i & 0xff];
  } else {
    const Matrix x = described(block, p.a_from);
    for (int row = 0; row < 64; ++row)
      for (int c = 0; c < chunks; ++c)
        for (int i = 0; i < each; ++i) {
          const uint8_t* from = x.at(row, c);
          uint16_t half;
          std::memcpy(&half, from + i * 2 % 16, 2);
          a[row][c * each + i] = p.kind == Product::kBf16 ? value_of(half) : codes[from[i]];
        }
  }
  // Each sum in the order of k; those of a row side by side.
  for (int row = 0; row < 64; ++row) {
    double sums[16] = {};
    const auto element = [row](int column, int& e) {
      e = column / 8 * 4 + row % 16 / 8 * 2 + column % 2;
      return row / 16 * 32 + row % 8 * 4 + column % 8 / 2;  // the thread that has it
    };
    int e;
    if (p.add)
      for (int n = 0; n < p.columns; ++n) {
        const int t = element(n, e);
        sums[n] = of[t]->d[e];
      }
    for (int i = 0; i < k; ++i)
      for (int n = 0; n < 16; ++n) sums[n] += a[row][i] * b[i][n];
    for (int n = 0; n < p.columns; ++n) {
      const int t = element(n, e);
      of[t]->d[e] = static_cast<float>(sums[n]);
    }
  }
}

template <int kThreads>
void together(Group& group, const char* what, void* mine, const std::function<void(void* const (&of)[kThreads])>& act) {
  Fiber* const self = m().now;
  if (group.arrived == 0) group.what = what;
  else if (std::strcmp(group.what, what) != 0) broken(std::string("one thread is at ") + what + ", another at " + group.what);
  group.of[self->thread % kThreads] = mine;
  if (++group.arrived < kThreads) {
    group.waiting.push_back(self);
    leave();
    return;
  }
  act(reinterpret_cast<void* const(&)[kThreads]>(group.of));
  group.arrived = 0;
  for (Fiber* fiber : group.waiting) wake(fiber);
  group.waiting.clear();
}

}  // namespace

// --- the host

Stream make_stream() {
  const std::lock_guard lock(m().host);
  return m().next_stream++;
}

void launch(std::function<void()> kernel, Dim grid, Dim block, size_t shared_bytes, Stream stream) {
  const std::lock_guard lock(m().host);
  if (m().stopped) return;
  auto one = std::make_unique<Grid>();
  one->kernel = std::move(kernel);
  one->grid = grid;
  one->block = block;
  one->shared_bytes = shared_bytes;
  one->stream = stream;
  m().streams[stream].push_back(std::move(one));
}

bool finish(Stream stream) {
  const std::lock_guard lock(m().host);
  while (!m().stopped && !m().streams[stream].empty()) advance();
  return !m().stopped;
}

void finish_all() {
  const std::lock_guard lock(m().host);
  while (!m().stopped && advance()) {
  }
}

bool step(Stream stream) {
  const std::lock_guard lock(m().host);
  for (int i = 0; i < 100'000 && !m().stopped && !m().streams[stream].empty(); ++i) advance();
  return m().stopped || m().streams[stream].empty();
}

bool failed() { return m().stopped; }

// --- a kernel

uint8_t* shared_memory() { return m().now->block->shared; }
uint8_t* static_memory() { return m().now->block->shared + kSharedBytes; }

uint32_t shared_offset(const void* pointer) {
  const Block& block = *m().now->block;
  const ptrdiff_t offset = static_cast<const uint8_t*>(pointer) - block.shared;
  if (offset < 0 || offset >= static_cast<ptrdiff_t>(block.shared_bytes)) broken("an address that is not of the block's shared memory");
  return static_cast<uint32_t>(offset);
}
void* shared_pointer(uint32_t offset) {
  const Block& block = *m().now->block;
  if (offset % 16 != 0 || offset + 16 > block.shared_bytes) broken("a row of a matrix that is not sixteen aligned bytes of the block's shared memory");
  return block.shared + offset;
}

void pause() {
  m().paused = true;
  m().polling.push_back(m().now);
  leave();
}

void warp(const char* what, void* mine, const std::function<void(void* const (&of)[32])>& act) {
  together<32>(m().now->block->warps[m().now->thread / 32], what, mine, act);
}
void warpgroup(const char* what, void* mine, const std::function<void(void* const (&of)[128])>& act) {
  together<128>(m().now->block->warpgroups[m().now->thread / 128], what, mine, act);
}

void barrier(int id, int threads) {
  NamedBarrier& b = m().now->block->barriers[id];
  if (b.arrived == 0) b.threads = threads;
  else if (b.threads != threads) broken("threads expect different numbers at a barrier");
  if (++b.arrived < threads) {
    b.waiting.push_back(m().now);
    leave();
    return;
  }
  for (Fiber* fiber : b.waiting) wake(fiber);
  b = {};
}

void barrier_without_waiting(int id, int threads) {
  NamedBarrier& b = m().now->block->barriers[id];
  if (b.arrived == 0) b.threads = threads;
  else if (b.threads != threads) broken("threads expect different numbers at a barrier");
  if (++b.arrived < threads) return;
  for (Fiber* fiber : b.waiting) wake(fiber);
  b = {};
}

void init(uint64_t* barrier, uint32_t arrivals) {
  shared_offset(barrier);
  *reinterpret_cast<Mbarrier*>(barrier) = {static_cast<uint16_t>(arrivals), static_cast<uint16_t>(arrivals), 0, 0};
}

void arrive(uint64_t* barrier, uint32_t bytes_to_come) {
  shared_offset(barrier);
  Mbarrier& b = *reinterpret_cast<Mbarrier*>(barrier);
  if (b.pending == 0) broken("more arrivals at a barrier than it expects");
  b.bytes += static_cast<int32_t>(bytes_to_come);
  --b.pending;
  settle(barrier);
}

bool passed_already(uint64_t* barrier, uint32_t parity) {
  shared_offset(barrier);
  return reinterpret_cast<Mbarrier*>(barrier)->phase != parity;
}
bool passed(uint64_t* barrier, uint32_t parity) {
  shared_offset(barrier);
  const Mbarrier& b = *reinterpret_cast<Mbarrier*>(barrier);
  if (b.phase != parity) return true;
  Fiber* const self = m().now;
  self->gave_up = false;
  m().at_barrier[barrier].push_back(self);
  leave();
  return !self->gave_up && b.phase != parity;
}

void copy_later(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 || shared_offset(to) % 16 != 0) broken("a bulk copy that is not aligned to 16 bytes");
  shared_offset(static_cast<uint8_t*>(to) + bytes - 1);
  m().arrivals.push_back({to, from, bytes, barrier, m().random() % 2 == 0});
}

void copy_when_waited(void* to, const void* from, uint32_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || (bytes > 0 && reinterpret_cast<uintptr_t>(from) % 16 != 0)) broken("a copy that is not aligned to 16 bytes");
  shared_offset(to);
  Fiber::Copy copy{to, m().now->copy_groups, {}};
  std::memcpy(copy.bytes, from, bytes);
  m().now->copies.push_back(copy);
}
void commit_copies() { ++m().now->copy_groups; }
void wait_copies(int pending) {
  std::vector<Fiber::Copy>& copies = m().now->copies;
  const auto later = std::find_if(copies.begin(), copies.end(), [&](const Fiber::Copy& copy) { return copy.group >= m().now->copy_groups - pending; });
  for (auto copy = copies.begin(); copy != later; ++copy) std::memcpy(copy->to, copy->bytes, sizeof copy->bytes);
  copies.erase(copies.begin(), later);
}

long long clock() { return m().clock; }

void trap() {
  m().stopped = true;
  leave();
  std::abort();
}

void issue(const Product& product) {
  m().now->products.push_back(product);
  for (int i = 0; i < product.columns / 2; ++i) product.d[i] = std::numeric_limits<float>::quiet_NaN();
}
void commit() { m().now->groups.push_back(m().now->products.size()); }

void wait_products(int pending) {
  Fiber* const self = m().now;
  if (!self->products.empty() && (self->groups.empty() || self->groups.back() != self->products.size())) broken("products that are in no group are waited for");
  warpgroup("a wait for products", self, [pending](void* const(&of)[128]) {
    Fiber& first = *static_cast<Fiber*>(of[0]);
    if (first.groups.size() <= static_cast<size_t>(pending)) return;
    const size_t done = first.groups.size() - static_cast<size_t>(pending), count = first.groups[done - 1];
    for (void* one : of)
      if (static_cast<Fiber*>(one)->groups != first.groups) broken("the threads of a warpgroup asked for different products");
    for (size_t i = 0; i < count; ++i) {
      Product* all[128];
      for (int t = 0; t < 128; ++t) all[t] = &static_cast<Fiber*>(of[t])->products[i];
      multiply(*first.block, all);
    }
    for (void* one : of) {
      Fiber& fiber = *static_cast<Fiber*>(one);
      fiber.products.erase(fiber.products.begin(), fiber.products.begin() + static_cast<ptrdiff_t>(count));
      fiber.groups.erase(fiber.groups.begin(), fiber.groups.begin() + static_cast<ptrdiff_t>(done));
      for (size_t& end : fiber.groups) end -= count;
    }
  });
}

}  // namespace simt
