// Attention over the cache at the lengths it is made for, against a plain computation in double on the same GPU: 1 to 131,072 positions, one to eight rows, NaN behind the
// last valid position; each row alone and in company; then its time. A few dozen keys, at the edges of blocks and chunks and elsewhere, match the queries so well that each
// of them alone moves the result by far more than the bound.
//   stack_attention [--quick]   --quick: up to 4,096 positions, no times
#include <algorithm>

#include "no_gpu.h"
#include "stack_ops/rig.h"

using namespace kilotoken;
using namespace kilotoken::ops;

namespace {

constexpr int kLongest = 131072, kDim = 192;
constexpr int kPlaces = kLongest + 2 * kRows;

struct Shape {
  const char* name;
  int q_heads, kv_heads;
};

__host__ __device__ uint32_t hash(uint32_t x) {
  x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu, x ^= x >> 16;
  return x;
}
// Nearly normal, variance 1.
__host__ __device__ float noise(uint32_t stream, uint32_t i) {
  const uint32_t h = hash(hash(stream) + i);
  return (static_cast<float>((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24)) - 510.0f) / 147.8f;
}
__host__ __device__ float sign(uint32_t kv, int d) { return hash(kv * 1000u + static_cast<uint32_t>(d)) & 1 ? 1.0f : -1.0f; }
// Whether the key at `position` matches: at edges, and one in 4,099 elsewhere.
__host__ __device__ bool needle(int position) {
  return position == 0 || position == 31 || position == 32 || position == 63 || position == 64 || position == 127 || position == 128 || position == 8191 || position == 8192 ||
         position % 1024 == 1023 || position % 2048 == 0 || position % 4099 == 17;
}

__device__ uint16_t to_bf16(float x) {
  uint16_t code;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(code) : "f"(x));
  return code;
}
__device__ double of_bf16(uint16_t code) { return __uint_as_float(static_cast<uint32_t>(code) << 16); }

// Positions [from, to) of all heads: numbers before `valid`, NaN behind.
__global__ void fill(uint16_t* keys, uint16_t* values, int kv_heads, int from, int to, int valid) {
  const size_t count = static_cast<size_t>(to - from) * kv_heads;
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count * (kDim + kValueDim); i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    const int d = static_cast<int>(i % (kDim + kValueDim)), position = from + static_cast<int>(i / (kDim + kValueDim)) % (to - from);
    const int kv = static_cast<int>(i / (kDim + kValueDim) / (to - from));
    const size_t row = static_cast<size_t>(kv) * kPlaces + position;
    const uint32_t at = static_cast<uint32_t>(position) * (kDim + kValueDim) + d;
    if (d < kDim) {
      const float x = needle(position) ? 0.8f * sign(kv, d) : noise(1 + kv, at);
      keys[row * kDim + cache_element(position, d)] = position < valid ? to_bf16(x) : 0xffff;
    } else {
      values[row * kValueDim + cache_element(position, d - kDim)] = position < valid ? to_bf16(noise(1 + kv, at)) : 0xffff;
    }
  }
}

__device__ float query(int head, int row, int d, int kv) { return noise(77, static_cast<uint32_t>((head * kRows + row) * kDim + d)) + sign(kv, d); }

// Row r of the step holds query `first_row + r`; rows from `rows` on stay NaN.
__global__ void set_queries(uint16_t* q, int q_heads, int kv_heads, int first_row, int rows) {
  const int shared_by = q_heads / kv_heads, groups = groups_of_kv(q_heads, kv_heads);
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * q_heads * kDim; i += gridDim.x * blockDim.x) {
    const int d = i % kDim, head = i / kDim % q_heads, row = i / kDim / q_heads;
    const int group = head / shared_by * groups + head % shared_by / kGroupHeads, of_group = head % shared_by % kGroupHeads;
    const float x = query(head, first_row + row, d, head / shared_by);
    const uint16_t high = to_bf16(x);
    q[query_index(group, 0, row, of_group, d & ~1, kDim) + d % 2] = high;
    q[query_index(group, 1, row, of_group, d & ~1, kDim) + d % 2] = to_bf16(x - static_cast<float>(of_bf16(high)));
  }
}

// A block a row and head: the result and its bound. Bounds as in stack_ops/attention.cu, but sums are as deep as a chunk and the number of chunks. `swap`: a mistake, values
// of the neighbouring dimension; `miss`: a key left out, or -1.
__global__ void reference(const uint16_t* keys, const uint16_t* values, int q_heads, int kv_heads, int start, double* scores, double* out, double* bound, int swap, int miss) {
  const int row = blockIdx.x / q_heads, head = blockIdx.x % q_heads, kv = head / (q_heads / kv_heads), n = start + row + 1;
  const uint16_t* const k = keys + static_cast<size_t>(kv) * kPlaces * kDim;
  const uint16_t* const v = values + static_cast<size_t>(kv) * kPlaces * kValueDim;
  double* const s = scores + static_cast<size_t>(blockIdx.x) * 2 * kPlaces;
  double* const slack = s + kPlaces;
  __shared__ double q[kDim], of_thread[512], more[512];
  for (int d = threadIdx.x; d < kDim; d += blockDim.x) q[d] = query(head, row, d, kv);
  __syncthreads();
  const double scale = 1 / sqrt(static_cast<double>(kDim)), unit = 0x1p-24;
  double top = -INFINITY, worst = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    double sum = 0, magnitude = 0;
    for (int d = 0; d < kDim; ++d) {
      const double x = q[d] * of_bf16(k[static_cast<size_t>(i) * kDim + cache_element(i, d)]);
      sum += x, magnitude += fabs(x);
    }
    s[i] = i == miss ? -INFINITY : sum * scale;
    slack[i] = magnitude * (0x1p-16 + 2 * (kDim + 8) * unit) * scale + fabs(sum * scale) * 0x1p-22;
    top = fmax(top, s[i]), worst = fmax(worst, slack[i]);
  }
  of_thread[threadIdx.x] = top, more[threadIdx.x] = worst;
  __syncthreads();
  for (int t = 0; t < static_cast<int>(blockDim.x); ++t) top = fmax(top, of_thread[t]), worst = fmax(worst, more[t]);
  __syncthreads();
  const int d = threadIdx.x % kValueDim, chunk = chunk_keys(n - 1, 0), depth = chunk + kMostChunks + 24, rescalings = chunk / 32 + 4;
  double sum = 0, total = 0, total_error = 0, error = 0, magnitude = 0;
  for (int i = threadIdx.x / kValueDim; i < n; i += blockDim.x / kValueDim) {
    const double w = exp(s[i] - top), x = w * of_bf16(v[static_cast<size_t>(i) * kValueDim + cache_element(i, d ^ swap)]);
    const double relative = i == miss ? 0 : expm1(slack[i] + worst) + (3 + 1.173 * (top - s[i])) * 0x1p-23 * (1 + rescalings) + 0x1p-16;
    total += w, total_error += w * relative, sum += x, magnitude += fabs(x), error += fabs(x) * relative;
  }
  const auto all = [&](double x) {  // of the threads of a dimension
    of_thread[threadIdx.x] = x;
    __syncthreads();
    double y = 0;
    for (int t = d; t < static_cast<int>(blockDim.x); t += kValueDim) y += of_thread[t];
    __syncthreads();
    return y;
  };
  sum = all(sum), total = all(total), total_error = all(total_error), magnitude = all(magnitude), error = all(error);
  if (threadIdx.x >= kValueDim) return;
  const size_t at = (static_cast<size_t>(row) * q_heads + head) * kValueDim + d;
  out[at] = sum / total;
  bound[at] = (error + magnitude * 2 * depth * unit) / total + fabs(sum / total) * (total_error / total + depth * unit);
}

struct Bench {
  explicit Bench(const Shape& shape, int blocks)
      : shape(shape), rig(blocks), keys(static_cast<size_t>(shape.kv_heads) * kPlaces * kDim), values(static_cast<size_t>(shape.kv_heads) * kPlaces * kValueDim),
        q(query_elements(shape.q_heads, shape.kv_heads, kDim)), partial(static_cast<size_t>(kMostChunks) * shape.q_heads * kRows * kPartialFloats),
        out(shape.q_heads * kValueDim), scores(static_cast<size_t>(kRows) * shape.q_heads * 2 * kPlaces), want(static_cast<size_t>(kRows) * shape.q_heads * kValueDim),
        bound(want.size()) {
    fill<<<1024, 256>>>(keys.get(), values.get(), shape.kv_heads, 0, kPlaces, kLongest + kRows);
    check(cudaDeviceSynchronize(), "a cache");
  }
  Instruction attend(const uint16_t* k, const uint16_t* v) const {
    Instruction ins = instruction(Op::kAttend);
    AttendArgs& a = ins.attend;
    a.q = q.get(), a.keys = k, a.values = v, a.out = out.args(), a.partial = partial.get();
    a.q_heads = shape.q_heads, a.kv_heads = shape.kv_heads, a.head_dim = kDim, a.max_context = kPlaces;
    return ins;
  }
  // Rows of the step at `start` are the queries from `first` on; behind them lies NaN.
  InputsOut::Host step(int start, int first, int rows) {
    const int to = std::min(start + 2 * kRows + kKeyBlock, kPlaces);
    fill<<<256, 256>>>(keys.get(), values.get(), shape.kv_heads, std::max(start - 1, 0), to, start + rows);
    q.fill(0xff);
    partial.fill(0xff);
    set_queries<<<64, 256>>>(q.get(), shape.q_heads, shape.kv_heads, first, rows);
    check(cudaDeviceSynchronize(), "a step");
    rig.step(start, rows);
    Instruction ins = attend(keys.get(), values.get());
    rig.run(ins);
    ins.op = Op::kCombine;
    rig.run(ins);
    return out.read("attention");
  }

  const Shape shape;
  Rig rig;
  Guarded<uint16_t> keys, values, q;
  Guarded<float> partial;
  InputsOut out;
  Device<double> scores, want, bound;
};

std::vector<double> host(const Device<double>& from, size_t count) {
  std::vector<double> x(count);
  check(cudaMemcpy(x.data(), from.get(), count * 8, cudaMemcpyDeviceToHost), "copying");
  return x;
}

void look(Bench& b, int start) {
  const int heads = b.shape.q_heads;
  const InputsOut::Host eight = b.step(start, 0, kRows);
  const size_t count = static_cast<size_t>(kRows) * heads * kValueDim;
  const auto against = [&](int swap, int miss, double& share, double& error, double& size) {
    reference<<<kRows * heads, 512>>>(b.keys.get(), b.values.get(), heads, b.shape.kv_heads, start, b.scores.get(), b.want.get(), b.bound.get(), swap, miss);
    check(cudaDeviceSynchronize(), "the reference");
    const std::vector<double> want = host(b.want, count), bound = host(b.bound, count);
    share = error = size = 0;
    size_t outside = 0;
    for (int r = 0; r < kRows; ++r)
      for (int i = 0; i < heads * kValueDim; ++i) {
        const size_t at = static_cast<size_t>(r) * heads * kValueDim + i;
        const double e = std::fabs(eight.split(r, i) - want[at]), most = bound[at] + std::fabs(want[at]) * 0x1p-16;
        if (!(e <= most)) ++outside;
        share = std::fmax(share, e / most), error += e * e, size += want[at] * want[at];
      }
    return outside;
  };
  double share, error, size, unused[3];
  const size_t outside = against(0, -1, share, error, size);
  tally::that(outside == 0, "%s, %d positions: %zu of %zu values outside their bounds", b.shape.name, start + 1, outside, count);
  // A comparison that cannot fail is worth nothing.
  tally::that(against(1, -1, unused[0], unused[1], unused[2]) > 0, "%s, %d positions: values of other dimensions are not noticed", b.shape.name, start + 1);
  for (const int miss : {0, start / 1024 * 1024 - 1, start / 2048 * 2048})
    if (miss >= 0 && start > 1) tally::that(against(0, miss, unused[0], unused[1], unused[2]) > 0, "%s, %d positions: a missing key (%d) is not noticed", b.shape.name, start + 1, miss);
  int different = 0;
  for (int rows = kRows - 1; rows >= 1; --rows) {
    const InputsOut::Host fewer = b.step(start, 0, rows);
    for (int r = 0; r < rows; ++r) different += fewer.row(r) != eight.row(r);
    for (int r = rows; r < kRows; ++r)
      for (int k = 0; k < fewer.k; ++k) different += fewer.split(r, k) != 0;
  }
  for (int r = 1; r < kRows; ++r) different += b.step(start + r, r, 1).row(0) != eight.row(r);  // alone, where it was the r-th
  const InputsOut::Host again = b.step(start, 0, kRows);
  for (int r = 0; r < kRows; ++r) different += again.row(r) != eight.row(r);
  fill<<<256, 256>>>(b.keys.get(), b.values.get(), b.shape.kv_heads, std::max(start - 1, 0), std::min(start + 4 * kKeyBlock, kPlaces), kLongest + kRows);
  check(cudaDeviceSynchronize(), "a cache");
  tally::that(different == 0, "%s, %d positions: %d rows with other bits in other company", b.shape.name, start + 1, different);
  std::printf("%-22s %7d positions  largest error %.3f of its bound, root mean square error %.1e of the values', rows alone and in company %s\n", b.shape.name, start + 1, share,
              std::sqrt(error / size), different == 0 ? "equal" : "DIFFERENT");
}

// One resident kernel over pairs of attention and combination on caches of their own, more than the L2 holds; microseconds a pair.
double microseconds(Bench& b, int context, int rows) {
  constexpr int kPairs = 30;
  const size_t places = static_cast<size_t>(context) + kRows;
  const size_t bytes = places * b.shape.kv_heads * (kDim + kValueDim) * 2;
  const int copies = static_cast<int>(std::min<size_t>(kPairs, std::max<size_t>(2, (size_t{3} << 30) / bytes)));
  std::vector<Device<uint16_t>> keys, values;
  for (int i = 0; i < copies; ++i) {
    keys.emplace_back(places * b.shape.kv_heads * kDim), values.emplace_back(places * b.shape.kv_heads * kValueDim);
    check(cudaMemcpy(keys.back().get(), b.keys.get(), keys.back().bytes(), cudaMemcpyDeviceToDevice), "a cache");
    check(cudaMemcpy(values.back().get(), b.values.get(), values.back().bytes(), cudaMemcpyDeviceToDevice), "a cache");
  }
  set_queries<<<64, 256>>>(b.q.get(), b.shape.q_heads, b.shape.kv_heads, 0, kRows);
  std::vector<Instruction> list;
  const auto add = [&](Instruction ins, int workers) {
    ins.waits = static_cast<int>(list.size()) - 1;
    ins.arrivals = list.empty() ? 0 : static_cast<uint32_t>(list.back().workers);
    ins.workers = std::min(workers, b.rig.blocks);
    list.push_back(ins);
  };
  for (int i = 0; i < kPairs; ++i) {
    Instruction ins = b.attend(keys[i % copies].get(), values[i % copies].get());
    ins.attend.max_context = static_cast<int>(places);
    add(ins, b.rig.blocks);
    ins.op = Op::kCombine;
    add(ins, b.shape.q_heads * kRows);
  }
  add(instruction(Op::kAccept), 1);
  const Device<int32_t> tokens(static_cast<size_t>(context) + 64);
  double best = 0;
  for (int run = 0; run < 3; ++run) {
    SessionState& s = b.rig.session;
    s = SessionState{};
    s.tokens = tokens.get();
    s.block_size = static_cast<uint32_t>(rows);
    s.max_context = static_cast<uint32_t>(context) + 32, s.max_tokens = 64;
    s.prompt_length = static_cast<uint32_t>(context), s.length = static_cast<uint32_t>(context) + 1;
    s.phase = Phase::kDecode;
    s.start = static_cast<uint32_t>(context), s.rows = static_cast<uint32_t>(rows);
    std::memset(static_cast<void*>(b.rig.mailbox), 0, sizeof(Mailbox));
    b.rig.run_resident(list, 1);
    const RoundRecord& record = b.rig.mailbox->rounds[0];
    const double us = static_cast<double>(record.ended_ns - record.began_ns) / 1e3 / kPairs;
    best = run == 0 ? us : std::min(best, us);
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const bool quick = argc > 1 && std::string(argv[1]) == "--quick";
  if (tally::no_gpu()) return 3;
  try {
    check(prepare_kernel(), "loading the kernel");
    cudaDeviceProp device;
    check(cudaGetDeviceProperties(&device, 0), "the GPU");
    for (const Shape& shape : {Shape{"one rank of eight", 16, 1}, Shape{"one rank of four", 32, 2}}) {
      Bench b(shape, device.multiProcessorCount);
      std::vector<int> lengths = {1, 7, 64, 127, 128, 129, 1000, 4096};
      if (!quick) lengths.insert(lengths.end(), {8189, 16380, 32768, 131065, 131072});
      if (shape.kv_heads > 1) lengths = quick ? std::vector<int>{129} : std::vector<int>{129, 8189, 32768};
      for (const int length : lengths) look(b, length - 1);
      if (quick) continue;
      for (const int rows : {8, 1})
        for (const int context : {4096, 32768, 131072 - kRows}) {
          const double us = microseconds(b, context, rows), bytes = static_cast<double>(context) * shape.kv_heads * (kDim + kValueDim) * 2;
          std::printf("%-22s %7d positions, %d rows: attention and combination %8.2f us, keys and values at %6.0f GB/s\n", shape.name, context, rows, us, bytes / us / 1e3);
        }
    }
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 1;
  }
  return tally::finish("stack attention");
}
