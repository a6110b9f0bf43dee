// The all-reduce alone for the node benchmark: raw samples as a JSON text (kernels/bench/collectives.h), and the sums that a caller compares for itself. Figures are
// derived by whoever reads them. Throws fp8::DeviceLack, EnvironmentFault, and fp8::DeviceFault when a wait ran out or a sum has other bits than it must have.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kilotoken {

struct NodeCollectives {
  std::string samples;
  std::vector<std::vector<std::vector<float>>> sums;  // [check of the samples][rank][8 x 6144]
};
NodeCollectives node_collectives(uint32_t gpus);

}  // namespace kilotoken
