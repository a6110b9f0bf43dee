#include "weights.h"

namespace kilotoken::fp8 {

Linear Linear::make(Format format, size_t count, size_t rows, size_t cols, size_t groups) {
  Linear w;
  w.format = format;
  w.count = count;
  w.rows = rows;
  w.cols = cols;
  w.group_rows = rows / groups;
  w.codes.grow(count * w.codes_bytes());
  if (w.fp8_inputs()) w.scales.grow(count * w.scales_bytes());
  return w;
}

size_t Linear::codes_bytes() const {
  switch (format) {
    case Format::kFp8: return rows * cols;
    case Format::kMxfp4: return rows * cols / 2;
    case Format::kBf16: return rows * cols * 2;
    case Format::kF32: return rows * cols * 4;
  }
  return 0;
}

size_t Linear::scales_bytes() const {
  if (format == Format::kFp8) return rows / group_rows * group_scale_rows() * scale_cols() * sizeof(float);
  if (format == Format::kMxfp4) return rows * cols / 32;
  return 0;
}

}  // namespace kilotoken::fp8
