#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "core/ties.h"

namespace kilotoken {

namespace {

// p[i] = exp((logits[i] - max) / temperature) for kept tokens, normalised.
void softmax(const float* logits, double temperature, const std::vector<bool>& kept, std::vector<double>& p) {
  double top = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < p.size(); ++i)
    if (kept.empty() || kept[i]) top = std::max(top, static_cast<double>(logits[i]));
  double mass = 0.0;
  for (size_t i = 0; i < p.size(); ++i) {
    p[i] = kept.empty() || kept[i] ? std::exp((logits[i] - top) / temperature) : 0.0;
    mass += p[i];
  }
  for (double& value : p) value /= mass;
}

void keep_top_p(double top_p, std::vector<double>& p) {
  // A heap rather than a sort: the nucleus is usually a few tokens of a large vocabulary.
  std::vector<int> heap(p.size());
  std::iota(heap.begin(), heap.end(), 0);
  const auto later = [&](int a, int b) { return ranks_before(p[b], b, p[a], a); };
  std::make_heap(heap.begin(), heap.end(), later);
  std::vector<bool> kept(p.size(), false);
  double mass = 0.0;
  while (!heap.empty() && mass < top_p) {
    std::pop_heap(heap.begin(), heap.end(), later);
    mass += p[heap.back()];
    kept[heap.back()] = true;
    heap.pop_back();
  }
  double kept_mass = 0.0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (!kept[i]) p[i] = 0.0;
    kept_mass += p[i];
  }
  for (double& value : p) value /= kept_mass;
}

}  // namespace

void check_logits(const float* logits, size_t vocab) {
  bool any = false;
  for (size_t i = 0; i < vocab; ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity())
      throw LogitsFault("the model produced a logit that is not a number, for token " + std::to_string(i));
    any = any || std::isfinite(logits[i]);
  }
  if (!any) throw LogitsFault("the model produced a row without any token");
}

void processed_row(const float* logits, size_t vocab, const Filters& filters, std::vector<double>& p) {
  check_logits(logits, vocab);
  p.resize(vocab);
  std::vector<bool> kept;
  if (filters.top_k > 0 && filters.top_k < vocab) {
    std::vector<int> ids(vocab);
    std::iota(ids.begin(), ids.end(), 0);
    std::nth_element(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(filters.top_k), ids.end(),
                     [&](int a, int b) { return ranks_before(logits[a], a, logits[b], b); });
    kept.assign(vocab, false);
    for (size_t i = 0; i < filters.top_k; ++i) kept[ids[i]] = true;
  }
  softmax(logits, filters.temperature, kept, p);
  if (filters.top_p < 1.0) keep_top_p(filters.top_p, p);
}

void log_row(const std::vector<double>& p, std::vector<double>& out) {
  out.resize(p.size());
  for (size_t i = 0; i < p.size(); ++i) out[i] = p[i] > 0.0 ? std::log(p[i]) : -std::numeric_limits<double>::infinity();
}

void log_softmax(const float* logits, size_t vocab, std::vector<double>& out) {
  check_logits(logits, vocab);
  out.resize(vocab);
  const double top = *std::max_element(logits, logits + vocab);
  double mass = 0.0;
  for (size_t i = 0; i < vocab; ++i) mass += std::exp(logits[i] - top);
  const double log_mass = top + std::log(mass);
  for (size_t i = 0; i < vocab; ++i) out[i] = logits[i] - log_mass;
}

}  // namespace kilotoken
