#include "gpu_look_exports.h"

#include <vector>

#include "native/cuda/gpu_look.h"
#include "promise_worker.h"

namespace kilotoken {

namespace {

Napi::Value or_null(Napi::Env env, const std::optional<uint64_t>& bytes) {
  return bytes ? Napi::Value(Napi::Number::New(env, static_cast<double>(*bytes))) : env.Null();
}

Napi::Object process_to_js(Napi::Env env, const GpuProcess& process) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("pid", process.pid);
  out.Set("name", process.name.empty() ? env.Null() : Napi::Value(Napi::String::New(env, process.name)));
  out.Set("bytes", or_null(env, process.bytes));
  out.Set("own", process.own);
  return out;
}

Napi::Object look_to_js(Napi::Env env, const GpuLook& look) {
  Napi::Object out = Napi::Object::New(env);
  Napi::Array processes = Napi::Array::New(env, look.processes.size()), unseen = Napi::Array::New(env, look.unseen.size());
  for (size_t i = 0; i < look.processes.size(); ++i) processes.Set(static_cast<uint32_t>(i), process_to_js(env, look.processes[i]));
  for (size_t i = 0; i < look.unseen.size(); ++i) unseen.Set(static_cast<uint32_t>(i), look.unseen[i]);
  out.Set("gpu", look.gpu);
  out.Set("processes", look.listed ? Napi::Value(processes) : env.Null());
  out.Set("usedBytes", or_null(env, look.used_bytes));
  out.Set("held", look.held);
  out.Set("unseen", unseen);
  return out;
}

// gpuLook() -> Promise<[{gpu, processes: [{pid, name, bytes, own}] | null, usedBytes, held, unseen}]>, a GPU an entry
Napi::Value gpu_look(const Napi::CallbackInfo& info) {
  return PromiseWorker<std::vector<GpuLook>>::start(info.Env(), look_at_gpus, [](Napi::Env env, std::vector<GpuLook>& looks) -> Napi::Value {
    Napi::Array out = Napi::Array::New(env, looks.size());
    for (size_t i = 0; i < looks.size(); ++i) out.Set(static_cast<uint32_t>(i), look_to_js(env, looks[i]));
    return out;
  });
}

}  // namespace

void export_gpu_look(Napi::Env env, Napi::Object exports) { exports.Set("gpuLook", Napi::Function::New<gpu_look>(env, "gpuLook")); }

}  // namespace kilotoken
