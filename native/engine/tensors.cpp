#include "tensors.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>

#include "core/bf16.h"
#include "core/mxfp4.h"
#include "fault.h"

namespace kilotoken {

namespace {

constexpr size_t kScaleColumns = 128;  // of an FP8 weight block, both ways
constexpr size_t kMxfp4Columns = 32;
constexpr uint8_t kHugeMxfp4Scale = 253;  // 6 * 2^126 is no binary32 number any more; below, every product is a BF16 number

size_t blocks(size_t n, size_t block) { return n / block + (n % block != 0); }

std::string show(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace

TensorReader::~TensorReader() {
  for (const auto& [path, descriptor] : files_) close(descriptor);
}

void TensorReader::fail(const std::string& name, const std::string& what) const {
  throw InputFault(prefix_ + "tensor " + name + " " + what);
}

const TensorRecord& TensorReader::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail(name, "is missing");
  return found->second;
}

int TensorReader::open_file(const std::string& name, const std::string& path) {
  const auto known = files_.find(path);
  if (known != files_.end()) return known->second;
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(name, std::string("cannot be read: ") + std::strerror(errno));
  files_.emplace(path, descriptor);
  return descriptor;
}

// cols 0: a one-dimensional tensor of `rows` elements.
std::vector<uint8_t> TensorReader::read(const std::string& name, const char* dtype, size_t element_bytes, size_t rows,
                                        size_t cols) {
  const TensorRecord& record = find(name);
  if (record.dtype != dtype) fail(name, std::string("is ") + record.dtype + ", expected " + dtype);
  std::vector<uint64_t> expected{rows};
  if (cols > 0) expected.push_back(cols);
  if (record.shape != expected) fail(name, "has shape " + show(record.shape) + ", expected " + show(expected));
  uint64_t bytes = element_bytes;
  for (const uint64_t size : expected)
    if (__builtin_mul_overflow(bytes, size, &bytes)) fail(name, "is too large");
  if (bytes != record.bytes) fail(name, "has " + std::to_string(record.bytes) + " bytes, expected " + std::to_string(bytes));

  const int descriptor = open_file(name, record.file);
  const off_t size = lseek(descriptor, 0, SEEK_END);
  if (size < 0 || record.offset > static_cast<uint64_t>(size) || bytes > static_cast<uint64_t>(size) - record.offset)
    fail(name, "lies beyond the end of its file");
  std::vector<uint8_t> data(bytes);
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t n = pread(descriptor, data.data() + done, bytes - done, static_cast<off_t>(record.offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(name, n < 0 ? std::string("cannot be read: ") + std::strerror(errno) : "ends early in its file");
    done += static_cast<uint64_t>(n);
  }
  return data;
}

LinearWeights TensorReader::matrix(const std::string& name, size_t rows, size_t cols) {
  try {
    if (find(name).dtype == "F32") return linear_from_f32(read(name, "F32", 4, rows, cols).data(), rows, cols);
    return linear_from_bf16(read(name, "BF16", 2, rows, cols).data(), rows, cols);
  } catch (const RefusedValue& error) {
    fail(name, error.what());
  }
}

LinearWeights TensorReader::linear(const std::string& name, size_t rows, size_t cols, size_t groups) {
  const std::string weight = name + ".weight";
  const std::string dtype = find(weight).dtype;
  try {
    if (dtype == "F8_E4M3") {
      const std::vector<uint8_t> codes = read(weight, "F8_E4M3", 1, rows, cols);
      if (groups == 0 || rows % groups != 0) fail(weight, "does not divide into " + std::to_string(groups) + " groups");
      const std::vector<uint8_t> raw = read(name + ".weight_scale_inv", "F32", 4, groups * blocks(rows / groups, kScaleColumns),
                                            blocks(cols, kScaleColumns));
      std::vector<float> scales(raw.size() / sizeof(float));
      std::memcpy(scales.data(), raw.data(), raw.size());
      return linear_from_fp8(codes.data(), scales.data(), rows, cols, groups);
    }
    if (dtype == "U8") {
      if (cols % kMxfp4Columns != 0) fail(weight, "has columns that are no multiple of 32");
      const std::vector<uint8_t> packed = read(weight, "U8", 1, rows, cols / 2);
      const std::vector<uint8_t> scales = read(name + ".weight_scale", "U8", 1, rows, cols / kMxfp4Columns);
      return linear_from_mxfp4(packed.data(), scales.data(), rows, cols);
    }
  } catch (const RefusedValue& error) {
    fail(weight, error.what());
  }
  return matrix(weight, rows, cols);
}

StoredLinear TensorReader::stored_matrix(const std::string& name, size_t rows, size_t cols) {
  const bool f32 = find(name).dtype == "F32";
  StoredLinear w{f32 ? StoredLinear::Format::kF32 : StoredLinear::Format::kBf16, read(name, f32 ? "F32" : "BF16", f32 ? 4 : 2, rows, cols), {}};
  // The exponent bits lie in the upper half of a binary32, which is a BF16.
  for (size_t i = f32 ? 2 : 0; i < w.codes.size(); i += f32 ? 4 : 2)
    if (((w.codes[i] | w.codes[i + 1] << 8) & 0x7f80) == 0x7f80) fail(name, "holds a value that is not finite");
  return w;
}

StoredLinear TensorReader::stored_linear(const std::string& name, size_t rows, size_t cols, size_t groups) {
  const std::string weight = name + ".weight";
  const std::string dtype = find(weight).dtype;
  if (dtype == "F8_E4M3") {
    if (groups == 0 || rows % groups != 0) fail(weight, "does not divide into " + std::to_string(groups) + " groups");
    StoredLinear w{StoredLinear::Format::kFp8, read(weight, "F8_E4M3", 1, rows, cols),
                   read(name + ".weight_scale_inv", "F32", 4, groups * blocks(rows / groups, kScaleColumns), blocks(cols, kScaleColumns))};
    for (const uint8_t code : w.codes)
      if ((code & 0x7fu) == 0x7fu) fail(weight, "holds a value that is not a number");
    for (size_t i = 2; i < w.scales.size(); i += 4)
      if (((w.scales[i] | w.scales[i + 1] << 8) & 0x7f80) == 0x7f80) fail(weight, "holds a scale that is not finite");
    return w;
  }
  if (dtype == "U8") {
    if (cols % kMxfp4Columns != 0) fail(weight, "has columns that are no multiple of 32");
    StoredLinear w{StoredLinear::Format::kMxfp4, read(weight, "U8", 1, rows, cols / 2), read(name + ".weight_scale", "U8", 1, rows, cols / kMxfp4Columns)};
    for (size_t b = 0; b < w.scales.size(); ++b) {
      if (w.scales[b] < kHugeMxfp4Scale) continue;
      float block[kMxfp4BlockSize];
      mxfp4_decode_block(w.codes.data() + b * kMxfp4BlockBytes, w.scales[b], block);
      for (const float value : block)
        if (!std::isfinite(value)) fail(weight, "holds a scale that is not a number or a value beyond BF16");
    }
    return w;
  }
  return stored_matrix(weight, rows, cols);
}

std::vector<float> TensorReader::vector(const std::string& name, size_t size) {
  const bool f32 = find(name).dtype == "F32";
  const std::vector<uint8_t> raw = f32 ? read(name, "F32", 4, size, 0) : read(name, "BF16", 2, size, 0);
  std::vector<float> out(size);
  try {
    if (f32) {
      const LinearWeights row = linear_from_f32(raw.data(), 1, size);
      out.assign(row.values.begin(), row.values.begin() + static_cast<std::ptrdiff_t>(size));
    } else {
      const LinearWeights row = linear_from_bf16(raw.data(), 1, size);
      for (size_t i = 0; i < size; ++i) out[i] = bf16_to_float(row.codes[i]);
    }
  } catch (const RefusedValue& error) {
    fail(name, error.what());
  }
  return out;
}

}  // namespace kilotoken
