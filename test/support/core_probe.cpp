// A door from the tests to core/: `core_probe OPERATION` reads packed little-endian records from standard input until it ends
// and writes one packed result per record. Nothing is computed here; every operation is one call into core/.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "accept.h"
#include "bf16.h"
#include "e2m1.h"
#include "e4m3.h"
#include "e8m0.h"
#include "lanes.h"
#include "mxfp4.h"
#include "philox.h"
#include "random.h"
#include "ties.h"

using namespace kilotoken;

namespace {

template <class T>
T read(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
std::vector<T> read_many(const uint8_t* from, size_t count) {
  std::vector<T> values(count);
  if (count > 0) std::memcpy(values.data(), from, count * sizeof(T));
  return values;
}

template <class T>
void write(std::vector<uint8_t>& out, const T& value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof(T));
}

// A row operation: one record is a uint32 count n, then 8 bytes of parameters, then n elements (twice for two rows).
struct Row {
  int n;
  const uint8_t* parameters;
  const uint8_t* elements;
};

using Bytes = std::vector<uint8_t>;

struct Operation {
  size_t record_bytes;  // 0: a row operation
  size_t element_bytes;
  std::function<void(const uint8_t*, Bytes&)> fixed;
  std::function<void(const Row&, Bytes&)> row;
};

Operation fixed(size_t bytes, std::function<void(const uint8_t*, Bytes&)> call) { return {bytes, 0, std::move(call), {}}; }
Operation rows(size_t bytes, std::function<void(const Row&, Bytes&)> call) { return {0, bytes, {}, std::move(call)}; }

const std::map<std::string, Operation> kOperations = {
    {"e2m1_decode", fixed(1, [](auto* in, Bytes& out) { write(out, e2m1_to_float(in[0])); })},
    {"e4m3_decode", fixed(1, [](auto* in, Bytes& out) { write(out, e4m3_to_float(in[0])); })},
    {"e4m3_to_bf16", fixed(1, [](auto* in, Bytes& out) { write(out, e4m3_to_bf16(in[0])); })},
    {"e8m0_decode", fixed(1, [](auto* in, Bytes& out) { write(out, e8m0_to_float(in[0])); })},
    {"bf16_decode", fixed(2, [](auto* in, Bytes& out) { write(out, bf16_to_float(read<uint16_t>(in))); })},
    {"e2m1_encode", fixed(4, [](auto* in, Bytes& out) { write(out, float_to_e2m1(read<float>(in))); })},
    {"e4m3_encode", fixed(4, [](auto* in, Bytes& out) { write(out, float_to_e4m3(read<float>(in))); })},
    {"bf16_encode", fixed(4, [](auto* in, Bytes& out) { write(out, float_to_bf16(read<float>(in))); })},
    {"e8m0_from_exponent", fixed(4, [](auto* in, Bytes& out) { write(out, e8m0_from_exponent(read<int32_t>(in))); })},
    {"mxfp4_encode", fixed(128,
                           [](auto* in, Bytes& out) {
                             const auto x = read_many<float>(in, kMxfp4BlockSize);
                             uint8_t packed[kMxfp4BlockBytes];
                             const uint8_t scale = mxfp4_encode_block(x.data(), packed);
                             out.insert(out.end(), packed, packed + kMxfp4BlockBytes);
                             write(out, scale);
                           })},
    {"mxfp4_decode", fixed(17,
                           [](auto* in, Bytes& out) {
                             float x[kMxfp4BlockSize];
                             mxfp4_decode_block(in, in[16], x);
                             write(out, x);
                           })},
    {"philox", fixed(24,
                     [](auto* in, Bytes& out) {
                       write(out, philox4x32(read<PhiloxWords>(in), read<uint32_t>(in + 16), read<uint32_t>(in + 20)));
                     })},
    {"uniform52", fixed(8, [](auto* in, Bytes& out) { write(out, uniform52(read<uint32_t>(in), read<uint32_t>(in + 4))); })},
    // seed, position, stream, round
    {"uniform", fixed(20,
                      [](auto* in, Bytes& out) {
                        write(out, uniform(read<uint64_t>(in), read<uint32_t>(in + 8), read<Stream>(in + 12), read<uint32_t>(in + 16)));
                      })},
    // seed, position, token
    {"gumbel", fixed(16,
                     [](auto* in, Bytes& out) {
                       write(out, gumbel(read<uint64_t>(in), read<uint32_t>(in + 8), read<uint32_t>(in + 12)));
                     })},
    // u, q, p
    {"accepts", fixed(24,
                      [](auto* in, Bytes& out) {
                        write(out, static_cast<uint8_t>(accepts(read<double>(in), read<double>(in + 8), read<double>(in + 16))));
                      })},
    {"argmax", rows(4, [](const Row& row, Bytes& out) {
       write(out, argmax(read_many<float>(row.elements, row.n).data(), row.n));
     })},
    {"top_k", rows(4, [](const Row& row, Bytes& out) {
       const int k = read<int32_t>(row.parameters);
       std::vector<int> ids(k);
       top_k(read_many<float>(row.elements, row.n).data(), row.n, k, ids.data());
       for (int id : ids) write(out, id);
     })},
    {"inverse_cdf", rows(8, [](const Row& row, Bytes& out) {
       write(out, inverse_cdf(read_many<double>(row.elements, row.n).data(), row.n, read<double>(row.parameters)));
     })},
    {"coupled_pick", rows(8, [](const Row& row, Bytes& out) {
       const auto log_p = read_many<double>(row.elements, row.n);
       write(out, coupled_pick(log_p.data(), row.n, read<uint32_t>(row.parameters), read<uint32_t>(row.parameters + 4)));
     })},
    // n counts both rows: p, then q
    {"residual_row", rows(8, [](const Row& row, Bytes& out) {
       const int n = row.n / 2;
       const auto p = read_many<double>(row.elements, n), q = read_many<double>(row.elements + 8 * n, n);
       std::vector<double> residual(n);
       write(out, residual_row(p.data(), q.data(), n, residual.data()));
       for (double value : residual) write(out, value);
     })},
    {"sum_lanes", fixed(4 * kLanes,
                        [](auto* in, Bytes& out) {
                          auto lanes = read_many<float>(in, kLanes);
                          write(out, sum_lanes(lanes.data()));
                        })},
};

Bytes read_all(std::FILE* file) {
  Bytes bytes;
  uint8_t chunk[1 << 16];
  while (const size_t got = std::fread(chunk, 1, sizeof chunk, file)) bytes.insert(bytes.end(), chunk, chunk + got);
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  const auto found = kOperations.find(argc == 2 ? argv[1] : "");
  if (found == kOperations.end()) {
    std::fprintf(stderr, "core_probe: unknown operation\n");
    return 2;
  }
  const Operation& operation = found->second;
  const Bytes in = read_all(stdin);
  Bytes out;
  size_t at = 0;
  while (at < in.size()) {
    size_t bytes = operation.record_bytes;
    const uint8_t* record = in.data() + at;
    if (bytes == 0 && in.size() - at >= 12) bytes = 12 + operation.element_bytes * read<uint32_t>(record);
    if (bytes == 0 || in.size() - at < bytes) {
      std::fprintf(stderr, "core_probe: a record is cut short\n");
      return 2;
    }
    if (operation.record_bytes > 0) {
      operation.fixed(record, out);
    } else {
      operation.row(Row{read<int32_t>(record), record + 4, record + 12}, out);
    }
    at += bytes;
  }
  std::fwrite(out.data(), 1, out.size(), stdout);
  return 0;
}
