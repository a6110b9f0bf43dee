#include <utility>

#include "native/engine/fault.h"
#include "objects.h"
#include "promise_worker.h"
#include "results.h"

namespace kilotoken {

namespace {

// Back on the JavaScript thread after a worker: the session may be freed now if it was closed meanwhile.
void release(SessionSlot& slot) {
  slot.busy = false;
  if (slot.closed) slot.session.reset();
}

}  // namespace

Napi::Function SessionObject::define(Napi::Env env) {
  return DefineClass(env, "Session",
                     {InstanceMethod<&SessionObject::step>("step"), InstanceMethod<&SessionObject::fork>("fork"),
                      InstanceMethod<&SessionObject::close>("close")});
}

Napi::Object SessionObject::create(Napi::Env env, std::shared_ptr<SessionSlot> slot) {
  auto* data = env.GetInstanceData<AddonData>();
  data->next_session = std::move(slot);
  return data->session_class.New({});
}

SessionObject::SessionObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SessionObject>(info) {
  slot_ = std::exchange(info.Env().GetInstanceData<AddonData>()->next_session, nullptr);
  if (!slot_) throw Napi::TypeError::New(info.Env(), "Session cannot be constructed; use open()");
}

SessionSlot& SessionObject::idle_slot() const {
  if (slot_->closed) throw InputFault("the session is closed");
  if (slot_->busy) throw InputFault("the session is busy with another step");
  if (slot_->failed) throw InputFault("the session failed in an earlier step");
  return *slot_;
}

Napi::Value SessionObject::step(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    if (idle_slot().session->finished()) throw InputFault("the session has finished");
    slot_->busy = true;
    return PromiseWorker<Round>::start(
        info.Env(),
        [slot = slot_] {
          slot->failed = true;
          Round round = slot->session->step();
          slot->failed = false;
          return round;
        },
        [](Napi::Env env, Round& round) { return round_to_js(env, round); }, [slot = slot_] { release(*slot); });
  });
}

Napi::Value SessionObject::fork(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    idle_slot().busy = true;
    return PromiseWorker<std::shared_ptr<SessionSlot>>::start(
        info.Env(),
        [slot = slot_] {
          auto copy = std::make_shared<SessionSlot>();
          copy->vocab = slot->vocab;
          copy->session = slot->session->fork();
          return copy;
        },
        [](Napi::Env env, std::shared_ptr<SessionSlot>& copy) -> Napi::Value { return create(env, std::move(copy)); },
        [slot = slot_] { release(*slot); });
  });
}

Napi::Value SessionObject::close(const Napi::CallbackInfo& info) {
  slot_->closed = true;
  if (!slot_->busy) slot_->session.reset();
  return info.Env().Undefined();
}

}  // namespace kilotoken
