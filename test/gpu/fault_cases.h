// The frame of the programs whose cases end in faults. A fault ends the process's context, so one case a process; it must end in time, with the exit code of the
// command line and a line that says what is known. Exits as the case expects it to; 1 if nothing was noticed, too late, or something else was said; 2 for a case that
// there is not. Without an argument, the cases.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/stack.h"

namespace kilotoken::stack {

struct FaultCase {
  void (*run)();
  int exit;                                          // expected
  std::vector<std::vector<const char*>> any_of_all;  // that the line must have: all of one of these

  bool says(const std::string& line) const {
    return std::any_of(any_of_all.begin(), any_of_all.end(), [&](const auto& all) {
      return std::all_of(all.begin(), all.end(), [&](const char* words) { return line.find(words) != std::string::npos; });
    });
  }
};

using FaultCases = std::map<std::string, FaultCase>;

constexpr double kFaultSeconds = 20;  // making a stack takes seconds of its own

// What the command line would exit with, and what it says: 70 for a kernel that cannot go on, 3 for what a machine lacks, 2 for a request. Once `decoding`, whatever
// a GPU says is a fault.
inline int fault_of(const FaultCase& one, const bool& decoding, std::string& said) {
  try {
    one.run();
    said = "no fault";
    return 0;
  } catch (const KernelFault& fault) {
    said = std::string("internal error: ") + fault.what();
    return 70;
  } catch (const DeviceError& error) {
    said = std::string(decoding ? "internal error: " : "error: ") + error.what();
    return decoding ? 70 : 3;
  } catch (const std::invalid_argument& error) {
    said = std::string("error: ") + error.what();
    return 2;
  }
}

// `prepare` throws a DeviceError where the machine cannot run any case.
inline int run_fault_case(int argc, char** argv, const FaultCases& cases, void (*prepare)(), const bool& decoding) {
  const auto found = argc > 1 ? cases.find(argv[1]) : cases.end();
  if (found == cases.end()) {
    for (const auto& [name, one] : cases) std::printf("%s\n", name.c_str());
    return argc > 1 ? 2 : 0;
  }
  try {
    prepare();
  } catch (const DeviceError& error) {
    std::printf("error: %s\n", error.what());
    return 3;
  }
  const auto began = std::chrono::steady_clock::now();
  std::string said;
  const int code = fault_of(found->second, decoding, said);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  const bool right = code == found->second.exit && found->second.says(said) && seconds < kFaultSeconds;
  std::printf("%-15s exit %d after %.1f s: %s%s\n", argv[1], code, seconds, said.c_str(), right ? "" : "  <- FAILED");
  std::fflush(stdout);
  return right ? code : 1;
}

}  // namespace kilotoken::stack
