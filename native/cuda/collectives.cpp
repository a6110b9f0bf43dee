#include "collectives.h"

#include <utility>

#include "kernels/bench/collectives.h"
#include "kernels/stack.h"
#include "native/engine/fault.h"
#include "reference/fp8/device.h"

namespace kilotoken {

NodeCollectives node_collectives(uint32_t gpus) {
  for (uint32_t gpu = 0; gpu < gpus; ++gpu) fp8::require_device(static_cast<int>(gpu));
  try {
    bench::Collectives measured = bench::measure_collectives(static_cast<int>(gpus));
    NodeCollectives out{bench::collectives_json(measured), {}};
    for (bench::CollectiveCheck& check : measured.checks) out.sums.push_back(std::move(check.sums));
    return out;
  } catch (const stack::KernelFault& fault) {
    throw fp8::DeviceFault(fault.what());
  } catch (const stack::DeviceError& error) {
    throw EnvironmentFault(error.what());
  }
}

}  // namespace kilotoken
