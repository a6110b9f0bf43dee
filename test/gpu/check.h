// What the GPU test programs share: findings are printed and counted, the exit status says whether there were any.
#pragma once

#include <cstdarg>
#include <cstdio>

namespace kilotoken::tally {

inline int findings = 0;
inline int passed = 0;

// One check; the text says what was looked at. Only the first findings are printed.
__attribute__((format(printf, 2, 3))) inline bool that(bool holds, const char* format, ...) {
  if (holds) {
    ++passed;
    return true;
  }
  if (++findings <= 40) {
    std::printf("FAILED: ");
    va_list arguments;
    va_start(arguments, format);
    std::vprintf(format, arguments);
    va_end(arguments);
    std::printf("\n");
  }
  return false;
}

inline int finish(const char* what) {
  std::printf("%s: %d checks passed, %d failed\n", what, passed, findings);
  return findings == 0 ? 0 : 1;
}

}  // namespace kilotoken::tally
