// The two classes JavaScript sees. Neither can be constructed from there: instances come from load(), open() and fork() only.
// A session shares its model's weights, so closing or collecting the model leaves open sessions whole.
#pragma once

#include <napi.h>

#include <memory>

#include "native/engine/decodable.h"

namespace kilotoken {

// A decode session and who uses it. All fields but the session's inside belong to the JavaScript thread; the session is used by
// at most one worker, while `busy`.
struct SessionSlot {
  std::unique_ptr<DecodeSession> session;
  size_t vocab = 0;
  bool busy = false;
  bool closed = false;
  bool failed = false;  // a step threw; what the session holds is of no further use. Set by the worker, while `busy`
};

// Per environment: the constructors, and what the next one called takes over.
struct AddonData {
  Napi::FunctionReference model_class, session_class;
  std::shared_ptr<const Decodable> next_model;
  std::shared_ptr<SessionSlot> next_session;
};

class ModelObject final : public Napi::ObjectWrap<ModelObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Object create(Napi::Env env, std::shared_ptr<const Decodable> model);
  explicit ModelObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value open(const Napi::CallbackInfo& info);   // (prompt, options) -> Session
  Napi::Value score(const Napi::CallbackInfo& info);  // (ids, topK, chunk) -> Promise<Scored>
  Napi::Value draft(const Napi::CallbackInfo& info);  // (ids, topK) -> Promise<TopRow[]>
  Napi::Value close(const Napi::CallbackInfo& info);
  const std::shared_ptr<const Decodable>& model() const;

  std::shared_ptr<const Decodable> model_;
};

class SessionObject final : public Napi::ObjectWrap<SessionObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Object create(Napi::Env env, std::shared_ptr<SessionSlot> slot);
  explicit SessionObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value step(const Napi::CallbackInfo& info);   // () -> Promise<Round>
  Napi::Value fork(const Napi::CallbackInfo& info);   // () -> Promise<Session>
  Napi::Value close(const Napi::CallbackInfo& info);  // a step under way finishes first, its promise still settles
  SessionSlot& idle_slot() const;

  std::shared_ptr<SessionSlot> slot_;
};

}  // namespace kilotoken
