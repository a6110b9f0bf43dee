// The two failures that reach a user as one line, as in native/errors.ts.
#pragma once

#include <stdexcept>
#include <string>

namespace kilotoken {

struct InputFault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct EnvironmentFault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace kilotoken
