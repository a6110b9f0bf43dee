#include <utility>

#include "native/engine/fault.h"
#include "objects.h"
#include "promise_worker.h"
#include "results.h"
#include "values.h"

namespace kilotoken {

Napi::Function ModelObject::define(Napi::Env env) {
  return DefineClass(env, "Model",
                     {InstanceMethod<&ModelObject::open>("open"), InstanceMethod<&ModelObject::score>("score"),
                      InstanceMethod<&ModelObject::draft>("draft"), InstanceMethod<&ModelObject::close>("close")});
}

Napi::Object ModelObject::create(Napi::Env env, std::shared_ptr<const Decodable> model) {
  auto* data = env.GetInstanceData<AddonData>();
  data->next_model = std::move(model);
  return data->model_class.New({});
}

ModelObject::ModelObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ModelObject>(info) {
  model_ = std::exchange(info.Env().GetInstanceData<AddonData>()->next_model, nullptr);
  if (!model_) throw Napi::TypeError::New(info.Env(), "Model cannot be constructed; use load()");
}

const std::shared_ptr<const Decodable>& ModelObject::model() const {
  if (!model_) throw InputFault("the model is closed");
  return model_;
}

Napi::Value ModelObject::open(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    std::vector<int32_t> prompt = ids_of(info[0], "prompt", model()->max_context());
    const Fields fields(info[1], "options");
    auto slot = std::make_shared<SessionSlot>();
    slot->vocab = model()->vocab_size();
    slot->session = model()->open(std::move(prompt), decoding_of(fields, slot->vocab), session_options_of(fields));
    return SessionObject::create(info.Env(), std::move(slot));
  });
}

Napi::Value ModelObject::score(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    auto ids = ids_of(info[0], "ids", model()->max_context());
    const size_t top_k = count_of(info[1], "topK"), chunk = count_of(info[2], "chunk");
    return PromiseWorker<Scored>::start(
        info.Env(), [model = model(), ids = std::move(ids), top_k, chunk] { return model->score(ids, top_k, chunk); },
        [](Napi::Env env, Scored& scored) { return scored_to_js(env, scored); });
  });
}

Napi::Value ModelObject::draft(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    auto ids = ids_of(info[0], "ids", model()->max_context());
    const size_t top_k = count_of(info[1], "topK");
    return PromiseWorker<std::vector<TopRow>>::start(
        info.Env(), [model = model(), ids = std::move(ids), top_k] { return model->draft(ids, top_k); },
        [](Napi::Env env, std::vector<TopRow>& rows) { return top_rows_to_js(env, rows); });
  });
}

Napi::Value ModelObject::close(const Napi::CallbackInfo& info) {
  model_.reset();
  return info.Env().Undefined();
}

}  // namespace kilotoken
