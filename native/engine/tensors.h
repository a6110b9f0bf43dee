// Reads tensors of a TensorMap by name. Shape, dtype and byte count must agree with what the caller needs and with each other
// before a byte is allocated; a short file is an error. Every error names the tensor.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "reference/cpu/linear_weights.h"
#include "spec.h"

namespace kilotoken {

// The bytes of one linear as a checkpoint holds them.
struct StoredLinear {
  enum class Format { kFp8, kMxfp4, kBf16, kF32 };
  Format format;
  std::vector<uint8_t> codes, scales;  // scales: F32 of FP8, E8M0 of MXFP4, else empty
};

class TensorReader {
 public:
  // prefix: put before tensor names in messages, for instance "dflash: ".
  TensorReader(const TensorMap& tensors, std::string prefix) : tensors_(tensors), prefix_(std::move(prefix)) {}
  ~TensorReader();
  TensorReader(const TensorReader&) = delete;
  TensorReader& operator=(const TensorReader&) = delete;

  // `name`.weight in whichever of the four formats it is stored, with its scales; `groups` as in linear_from_fp8.
  LinearWeights linear(const std::string& name, size_t rows, size_t cols, size_t groups = 1);
  // The tensor `name` itself, BF16 or F32, as a matrix / widened to binary32.
  LinearWeights matrix(const std::string& name, size_t rows, size_t cols);
  std::vector<float> vector(const std::string& name, size_t size);
  // The same tensors as they are stored, for a device that decodes them itself; what is not finite is refused alike.
  StoredLinear stored_linear(const std::string& name, size_t rows, size_t cols, size_t groups = 1);
  StoredLinear stored_matrix(const std::string& name, size_t rows, size_t cols);

 private:
  const TensorRecord& find(const std::string& name) const;
  std::vector<uint8_t> read(const std::string& name, const char* dtype, size_t element_bytes, size_t rows, size_t cols);
  [[noreturn]] void fail(const std::string& name, const std::string& what) const;
  int open_file(const std::string& name, const std::string& path);

  const TensorMap& tensors_;
  const std::string prefix_;
  std::unordered_map<std::string, int> files_;  // open descriptors by path
};

}  // namespace kilotoken
