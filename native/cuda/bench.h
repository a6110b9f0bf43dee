// Measurements of this GPU for `kilotoken bench kernels`, as JSON texts of raw samples (kernels/bench). Figures are derived by whoever reads them.
// Throw the faults of reference/fp8/fault.h and EnvironmentFault.
#pragma once

#include <string>

namespace kilotoken {

std::string bench_floors();
std::string bench_operations();
std::string bench_layers();

}  // namespace kilotoken
