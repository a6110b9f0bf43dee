#include "toy.h"

#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "fault.h"
#include "reference/cpu/toy.h"

namespace kilotoken {

namespace {

constexpr size_t kMostEntries = size_t{1} << 24;  // of a table
constexpr size_t kLongestContext = size_t{1} << 30;

[[noreturn]] void refuse(const std::string& what) { throw InputFault("toy: " + what); }

// base^exponent, or anything above `most` if it exceeds that.
size_t power_up_to(size_t base, size_t exponent, size_t most) {
  size_t result = 1;
  for (size_t i = 0; i < exponent && result <= most && base > 1; ++i) result *= base;  // base, most <= 2^24
  return result;
}

void check_table(const char* name, const std::vector<float>& table, size_t entries, const ToySpec& spec) {
  if (table.size() != entries)
    refuse(std::string(name) + " has " + std::to_string(table.size()) + " entries, vocab, order and block need " + std::to_string(entries));
  if (spec.allow_nan) return;
  for (size_t begin = 0; begin < entries; begin += spec.vocab) {
    bool any = false;
    for (size_t i = begin; i < begin + spec.vocab; ++i) {
      if (std::isnan(table[i]) || table[i] == std::numeric_limits<float>::infinity())
        refuse(std::string(name) + "[" + std::to_string(i) + "] is neither a binary32 number nor -infinity");
      any = any || std::isfinite(table[i]);
    }
    if (!any) refuse(std::string(name) + ": row " + std::to_string(begin / spec.vocab) + " holds no token");
  }
}

}  // namespace

std::shared_ptr<const Model> load_toy(ToySpec spec) {
  if (spec.vocab < 1 || spec.vocab > kMostEntries) refuse("vocab must lie in 1 .. " + std::to_string(kMostEntries));
  if (spec.order < 1 || spec.order > 64) refuse("order must lie in 1 .. 64");
  if (spec.block < 1 || spec.block > kMaxStepRows) refuse("block must lie in 1 .. " + std::to_string(kMaxStepRows));
  if (spec.max_context < 2 || spec.max_context > kLongestContext)
    refuse("the context must lie in 2 .. " + std::to_string(kLongestContext));
  const size_t contexts = power_up_to(spec.vocab, spec.order, kMostEntries);
  const size_t slots = spec.block - 1;
  if (contexts > kMostEntries || contexts * spec.vocab > kMostEntries || contexts * spec.vocab * slots > kMostEntries)
    refuse("a table of more than " + std::to_string(kMostEntries) + " entries");
  check_table("targetLogits", spec.target_logits, contexts * spec.vocab, spec);
  check_table("draftLogits", spec.draft_logits, contexts * slots * spec.vocab, spec);
  auto target = std::make_shared<const ToyTarget>(spec.vocab, spec.order, spec.max_context, std::move(spec.target_logits));
  std::shared_ptr<const ToyDraft> draft;
  if (slots > 0) draft = std::make_shared<const ToyDraft>(spec.vocab, spec.order, spec.block, std::move(spec.draft_logits));
  return std::make_shared<const Model>(std::move(target), std::move(draft));
}

}  // namespace kilotoken
