// Numbers as the model's definition gives them, in double, each with the variance of how far a right implementation lies from it. Bounds of the worst case multiply along
// a layer until they allow everything (a tensor core may cut a sum of 32 products of E4M3 by 2^-8 of the largest, and a code that flips is a step of 2^-4), so errors are
// taken as independent roundings of either sign and their variances add up: Higham and Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci.
// Comput. 41 (2019). Nothing here is fitted to what a device gave; only the units in the last place, the lengths and the formats enter.
//   a rounding that is off by at most d: variance d^2 / 3
//   a product of E4M3 or E2M1 codes: 32 terms are aligned to the largest and cut 2^-13 below it: 32 / 3 (2^-13 largest weight x largest input)^2 for each 32,
//     and k / 32 roundings of 2^-24 of a partial sum, whose square is at most about sum of t^2 + (sum of t)^2
//   a product of BF16: k / 8 additions (two parts of the input) cut at 2^-23 of a partial sum, four of them the same way
//   a value that is rounded to a format: where a flip is in reach, step^2 times its probability (flips); the reference rounds too, so all else cancels
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

namespace kilotoken::layer {

inline constexpr double kUnit = 0x1p-24;     // of a rounding to binary32
inline double cut_at = 0x1p-13;              // what a tensor core drops of each of 32 E4M3 products, of the largest; a GPU in software: nothing
inline constexpr double kSplit = 0x1p-16;    // what two BF16 parts leave of a number
inline constexpr double kReach = 6;          // deviations within which a boundary counts
inline constexpr double kDeviations = 8;     // that an element's error may be: a chance of 1e-15 for many small errors
inline constexpr double kRowDeviations = 2;  // that the root of the mean square of a row's may be

inline std::string broken;  // the mistake in force; empty: none
inline bool breaks(const char* name) { return broken == name; }

inline double square(double x) { return x * x; }
inline double off_by(double most) { return most * most / 3; }

struct Rows {
  int count = 0, width = 0;
  std::vector<double> value, variance;  // [count][width]
  Rows() = default;
  Rows(int count, int width) : count(count), width(width), value(static_cast<size_t>(count) * width), variance(value.size()) {}
  size_t at(int row, int i) const { return static_cast<size_t>(row) * width + i; }
};

// What a product reads. `shared`: a relative variance that all of a row's numbers have in common, by row.
struct Inputs {
  Rows x;
  std::vector<double> shared, peak;  // peak: [count][width / 32], the largest magnitude
};

// A row of weights and the largest magnitude of each 32.
struct Weights {
  std::vector<double> value, peak;
};

inline std::vector<double> peaks(const double* x, int width) {
  std::vector<double> out(static_cast<size_t>(width) / 32);
  for (int i = 0; i < width; ++i) out[i / 32] = std::max(out[i / 32], std::fabs(x[i]));
  return out;
}

// Variance of `x` rounded to a grid, of which `rounded` is the reference's choice: the device rounds x plus an error of variance `variance`. A flip is one event, not many small
// ones: where only roundings of binary32 decide it is taken as certain, and else as no rarer than one in 32, so that one that happens lies within the bound.
inline double flips(double x, double rounded, double step, double variance) {
  const double deviation = std::sqrt(variance);
  double sum = 0;
  for (const double side : {-1.0, 1.0}) {
    const double distance = (rounded + side * step / 2 - x) * side;  // to the boundary on this side
    for (int n = 0; n < 16 && distance + n * step < kReach * deviation; ++n) {
      const double chance = std::erfc((distance + n * step) / deviation * std::sqrt(0.5)) / 2;
      sum += (2 * n + 1) * square(step) * (n > 0 ? chance : deviation * 1024 < step ? 1 : std::max(chance, 1.0 / 32));
    }
  }
  return sum;
}

// To the nearest number of `bits` significant bits (the leading one among them), ties to even; steps grow no smaller than those of 2^lowest.
inline double nearest(double x, int bits, int lowest, double& step) {
  int exponent = 0;
  std::frexp(x, &exponent);
  step = std::ldexp(1.0, std::max(exponent - 1, lowest) - (bits - 1));
  return std::nearbyint(x / step) * step;
}

// E4M3 codes with a scale for each `group` numbers: largest magnitude / 448. The device's quotients are off by eight units (its inverse by four), its scale by three.
inline Inputs coded(const Rows& y, int group) {
  Inputs out{y, std::vector<double>(y.count), {}};
  for (int r = 0; r < y.count; ++r) {
    for (int first = 0; first < y.width; first += group) {
      size_t top = y.at(r, first);
      for (int i = 0; i < group; ++i)
        if (std::fabs(y.value[y.at(r, first + i)]) > std::fabs(y.value[top])) top = y.at(r, first + i);
      const double scale = std::fabs(y.value[top]) / 448;
      if (scale == 0) continue;
      const double relative = y.variance[top] / square(y.value[top]) + off_by(3 * kUnit);
      for (int i = 0; i < group; ++i) {
        const size_t at = y.at(r, first + i);
        const double quotient = y.value[at] / scale;
        double step;
        const double code = nearest(quotient, 4, -6, step);
        const double wander = at == top ? 0 : y.variance[at] / square(scale) + square(quotient) * (relative + off_by(8 * kUnit));
        out.x.value[at] = code * scale;
        out.x.variance[at] = square(scale) * flips(quotient, code, step, wander) + square(code * scale) * relative;
      }
    }
    const std::vector<double> of_row = peaks(out.x.value.data() + out.x.at(r, 0), y.width);
    out.peak.insert(out.peak.end(), of_row.begin(), of_row.end());
  }
  return out;
}

// Two BF16 parts.
inline Inputs split(const Rows& y) {
  Inputs out{y, std::vector<double>(y.count), {}};
  for (size_t i = 0; i < y.value.size(); ++i) out.x.variance[i] += off_by(kSplit * y.value[i]);
  return out;
}

struct Estimate {
  double value = 0, variance = 0;
};

enum class Core { kCodes, kBf16 };

inline Estimate product(const Weights& w, const Inputs& in, int row, Core core) {
  const double *x = in.x.value.data() + in.x.at(row, 0), *v = in.x.variance.data() + in.x.at(row, 0), *a = w.value.data();
  double sum[4] = {}, squares[4] = {}, inherited[4] = {};
  for (int k = 0; k < in.x.width; k += 4)
    for (int j = 0; j < 4; ++j) {
      const double term = a[k + j] * x[k + j];
      sum[j] += term;
      squares[j] += term * term;
      inherited[j] += a[k + j] * a[k + j] * v[k + j];
    }
  Estimate out{(sum[0] + sum[1]) + (sum[2] + sum[3]), (inherited[0] + inherited[1]) + (inherited[2] + inherited[3])};
  const double partial = squares[0] + squares[1] + squares[2] + squares[3] + square(out.value);
  const int steps = in.x.width / (core == Core::kCodes ? 32 : 8) + 16;
  out.variance += steps * partial * (core == Core::kCodes ? off_by(kUnit) : 4 * off_by(2 * kUnit)) + square(out.value) * in.shared[row];
  if (core == Core::kCodes) {
    const double* peak = in.peak.data() + static_cast<size_t>(row) * w.peak.size();
    double cut = 0;
    for (size_t i = 0; i < w.peak.size(); ++i) cut += square(w.peak[i] * peak[i]);
    out.variance += 32 * off_by(cut_at) * cut;
  }
  return out;
}

// work(i) for i < count, on all processors, 32 at most.
template <class Work>
void parallel(int count, Work work) {
  constexpr int kAtOnce = 8;
  std::atomic<int> next{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < std::clamp(std::thread::hardware_concurrency(), 1u, 32u); ++t)
    threads.emplace_back([&] {
      for (int from = next.fetch_add(kAtOnce); from < count; from = next.fetch_add(kAtOnce))
        for (int i = from; i < std::min(from + kAtOnce, count); ++i) work(i);
    });
  for (std::thread& t : threads) t.join();
}

}  // namespace kilotoken::layer
