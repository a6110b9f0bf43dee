// A matrix as a checkpoint stores it, on the device.
#pragma once

#include <cstdint>

namespace kilotoken::stack {

enum class Storage : uint32_t { kE4m3, kMxfp4, kBf16, kF32 };

// A matrix (or a stack of equal ones, rows on rows) as stored. Scales: kE4m3 binary32 [per 128 rows, restarting every `scale_rows` rows][cols / 128];
// kMxfp4 E8M0 [rows][cols / 32]; else null.
struct Matrix {
  Storage storage;
  const void* codes;
  const void* scales;
  int rows, cols;
  int scale_rows;  // kE4m3; 0: never restarts
};

}  // namespace kilotoken::stack
