#include "gpu_exports.h"

#include <charconv>
#include <memory>
#include <utility>

#include "gpu_look_exports.h"
#include "native/cuda/bench.h"
#include "native/cuda/load.h"
#include "native/cuda/stack_model.h"
#include "native/engine/fault.h"
#include "node_exports.h"
#include "objects.h"
#include "promise_worker.h"
#include "values.h"

namespace kilotoken {

namespace {

Napi::Value start_load(Napi::Env env, std::function<std::shared_ptr<const Decodable>()> load) {
  return PromiseWorker<std::shared_ptr<const Decodable>>::start(
      env, std::move(load),
      [](Napi::Env env, std::shared_ptr<const Decodable>& model) -> Napi::Value { return ModelObject::create(env, std::move(model)); });
}

uint32_t small(const Fields& fields, const char* name) {
  const uint64_t value = fields.count(name);
  if (value > (1u << 24)) throw InputFault(fields.path(name) + " is too large");
  return static_cast<uint32_t>(value);
}

SyntheticSpec synthetic_spec_of(const Napi::Value& value) {
  const Fields fields(value, "synthetic");
  SyntheticSpec spec;
  const std::string seed = fields.text("seed");
  const auto [end, error] = std::from_chars(seed.data(), seed.data() + seed.size(), spec.seed);
  if (seed.empty() || error != std::errc() || end != seed.data() + seed.size())
    throw InputFault(fields.path("seed") + " must be an unsigned 64-bit integer in decimal");
  spec.shape.layers = small(fields, "layers");
  spec.shape.fp8_experts = fields.flag("fp8Experts");
  spec.shard = {small(fields, "rank"), small(fields, "ranks")};
  spec.max_context = fields.count("maxContext");
  spec.activations = fields.text("activations") == "fp8" ? Activations::kFp8 : Activations::kBf16;
  return spec;
}

// gpu() -> what the machine has, with `lack` saying why nothing can run here, or empty
Napi::Value gpu(const Napi::CallbackInfo& info) {
  const GpuReport report = inspect_gpu();
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("lack", report.lack);
  out.Set("name", report.name);
  out.Set("capability", std::to_string(report.major) + "." + std::to_string(report.minor));
  out.Set("driverCuda", report.driver_version);
  out.Set("runtimeCuda", report.runtime_version);
  out.Set("memory", static_cast<double>(report.memory));
  out.Set("freeMemory", static_cast<double>(report.free_memory));
  return out;
}

// loadReference(checkpoint) -> Promise<Model>
Napi::Value load_reference(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    return start_load(info.Env(), [spec = model_spec_of(info[0])] { return load_reference_cuda(spec); });
  });
}

// loadSyntheticReference(synthetic) -> Promise<Model>
Napi::Value load_synthetic_reference(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    return start_load(info.Env(), [spec = synthetic_spec_of(info[0])] { return load_reference_cuda(spec); });
  });
}

// loadStack(checkpoint) -> Promise<Model>
Napi::Value load_stack(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    return start_load(info.Env(), [spec = model_spec_of(info[0])] { return load_stack_cuda(spec); });
  });
}

// loadSyntheticStack(synthetic) -> Promise<Model>
Napi::Value load_synthetic_stack(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    return start_load(info.Env(), [spec = synthetic_spec_of(info[0])] { return load_stack_cuda(spec); });
  });
}

// loadStackToy(tables) -> Promise<Model>
Napi::Value load_toy_of_stack(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    return start_load(info.Env(), [spec = toy_spec_of(info[0])] { return load_stack_toy(spec); });
  });
}

// benchFloors(), benchOperations(), benchLayers() -> Promise<string>, a JSON text of raw samples
template <std::string (*kMeasure)()>
Napi::Value bench(const Napi::CallbackInfo& info) {
  return PromiseWorker<std::string>::start(info.Env(), kMeasure,
                                           [](Napi::Env env, std::string& json) -> Napi::Value { return Napi::String::New(env, json); });
}

}  // namespace

void export_gpu(Napi::Env env, Napi::Object exports) {
  exports.Set("gpu", Napi::Function::New<gpu>(env, "gpu"));
  exports.Set("loadReference", Napi::Function::New<load_reference>(env, "loadReference"));
  exports.Set("loadSyntheticReference", Napi::Function::New<load_synthetic_reference>(env, "loadSyntheticReference"));
  exports.Set("loadStack", Napi::Function::New<load_stack>(env, "loadStack"));
  exports.Set("loadSyntheticStack", Napi::Function::New<load_synthetic_stack>(env, "loadSyntheticStack"));
  exports.Set("loadStackToy", Napi::Function::New<load_toy_of_stack>(env, "loadStackToy"));
  exports.Set("benchFloors", Napi::Function::New<bench<bench_floors>>(env, "benchFloors"));
  exports.Set("benchOperations", Napi::Function::New<bench<bench_operations>>(env, "benchOperations"));
  exports.Set("benchLayers", Napi::Function::New<bench<bench_layers>>(env, "benchLayers"));
  export_gpu_look(env, exports);
  export_node(env, exports);
}

}  // namespace kilotoken
