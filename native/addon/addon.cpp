// The addon's exports.
#include <napi.h>

#include <memory>
#include <utility>

#include "gpu_exports.h"
#include "objects.h"
#include "promise_worker.h"
#include "values.h"

namespace kilotoken {

// load(checkpoint) -> Promise<Model>
Napi::Value load(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    return PromiseWorker<std::shared_ptr<const Decodable>>::start(
        info.Env(), [spec = model_spec_of(info[0])] { return Model::load(spec); },
        [](Napi::Env env, std::shared_ptr<const Decodable>& model) -> Napi::Value {
          return ModelObject::create(env, std::move(model));
        });
  });
}

// loadToy(tables) -> Promise<Model>
Napi::Value load_toy_tables(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    return PromiseWorker<std::shared_ptr<const Decodable>>::start(
        info.Env(), [spec = toy_spec_of(info[0])] { return load_toy(spec); },
        [](Napi::Env env, std::shared_ptr<const Decodable>& model) -> Napi::Value {
          return ModelObject::create(env, std::move(model));
        });
  });
}

// instructionSets() -> names of the ops tables this processor can run, best first
Napi::Value instruction_sets(const Napi::CallbackInfo& info) {
  size_t count = 0;
  const Ops* const* tables = available_ops(&count);
  Napi::Array names = Napi::Array::New(info.Env(), count);
  for (size_t i = 0; i < count; ++i) names.Set(static_cast<uint32_t>(i), tables[i]->instruction_set);
  return names;
}

#ifdef KILOTOKEN_DEFECTS
// defects() -> [{id, title}], what open() takes as `defect`
Napi::Value defects(const Napi::CallbackInfo& info) {
  Napi::Array list = Napi::Array::New(info.Env(), kDefects.size());
  for (uint32_t i = 0; i < kDefects.size(); ++i) {
    Napi::Object item = Napi::Object::New(info.Env());
    item.Set("id", kDefects[i].id);
    item.Set("title", kDefects[i].title);
    list.Set(i, item);
  }
  return list;
}

// networkDefects() -> [{id, title, target}], what load() takes as `defect`
Napi::Value network_defects(const Napi::CallbackInfo& info) {
  Napi::Array list = Napi::Array::New(info.Env(), kNetworkDefects.size());
  for (uint32_t i = 0; i < kNetworkDefects.size(); ++i) {
    Napi::Object item = Napi::Object::New(info.Env());
    item.Set("id", kNetworkDefects[i].id);
    item.Set("title", kNetworkDefects[i].title);
    item.Set("target", kNetworkDefects[i].target);
    list.Set(i, item);
  }
  return list;
}
#endif

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* data = new AddonData;
  env.SetInstanceData(data);
  data->model_class = Napi::Persistent(ModelObject::define(env));
  data->session_class = Napi::Persistent(SessionObject::define(env));
  exports.Set("load", Napi::Function::New<load>(env, "load"));
  exports.Set("loadToy", Napi::Function::New<load_toy_tables>(env, "loadToy"));
  exports.Set("instructionSets", Napi::Function::New<instruction_sets>(env, "instructionSets"));
#ifdef KILOTOKEN_CUDA
  export_gpu(env, exports);
#endif
#ifdef KILOTOKEN_DEFECTS
  exports.Set("defects", Napi::Function::New<defects>(env, "defects"));
  exports.Set("networkDefects", Napi::Function::New<network_defects>(env, "networkDefects"));
#endif
  return exports;
}

NODE_API_MODULE(kilotoken, init)

}  // namespace kilotoken
