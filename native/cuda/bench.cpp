#include "bench.h"

#include "kernels/bench/floors.h"
#include "kernels/bench/layers.h"
#include "kernels/bench/operations.h"
#include "kernels/stack.h"
#include "native/engine/fault.h"
#include "reference/fp8/device.h"

namespace kilotoken {

namespace {

template <class Body>
std::string measured(Body body) {
  fp8::require_device();
  try {
    return body();
  } catch (const stack::KernelFault& fault) {
    throw fp8::DeviceFault(fault.what());
  } catch (const stack::DeviceError& error) {
    throw EnvironmentFault(error.what());
  }
}

}  // namespace

std::string bench_floors() {
  return measured([] { return bench::floors_json(bench::measure_floors(0)); });
}

std::string bench_operations() {
  return measured([] { return bench::operations_json(bench::measure_operations(0)); });
}

std::string bench_layers() {
  return measured([] { return bench::layers_json(bench::measure_layers(0)); });
}

}  // namespace kilotoken
