// Work off the event loop behind a Promise. `work` runs on a pool thread and touches no JavaScript value; `settle` turns its
// result into one, back on the JavaScript thread. Faults become Errors with a `code` that addon.ts turns into their classes.
#pragma once

#include <napi.h>

#include <functional>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "native/engine/fault.h"
#include "reference/cpu/sampling.h"
#include "reference/fp8/fault.h"

namespace kilotoken {

inline Napi::Error error_with_code(Napi::Env env, const std::string& message, const char* code) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

inline constexpr const char* kInputCode = "KILOTOKEN_INPUT";
inline constexpr const char* kEnvironmentCode = "KILOTOKEN_ENVIRONMENT";
inline constexpr const char* kLogitsCode = "KILOTOKEN_LOGITS";
inline constexpr const char* kDeviceCode = "KILOTOKEN_DEVICE";

// Runs `body` on the JavaScript thread; faults leave as JavaScript exceptions.
template <class Body>
auto with_js_errors(Napi::Env env, Body body) {
  try {
    return body();
  } catch (const InputFault& fault) {
    throw error_with_code(env, fault.what(), kInputCode);
  } catch (const EnvironmentFault& fault) {
    throw error_with_code(env, fault.what(), kEnvironmentCode);
  } catch (const fp8::DeviceLack& lack) {
    throw error_with_code(env, lack.what(), kEnvironmentCode);
  } catch (const fp8::DeviceFault& fault) {
    throw error_with_code(env, fault.what(), kDeviceCode);
  } catch (const std::bad_alloc&) {
    throw error_with_code(env, "out of memory", kEnvironmentCode);
  }
}

template <class Result>
class PromiseWorker final : public Napi::AsyncWorker {
 public:
  using Work = std::function<Result()>;
  using Settle = std::function<Napi::Value(Napi::Env, Result&)>;
  using Always = std::function<void()>;

  // `always` runs on the JavaScript thread before the promise settles, whatever happened.
  static Napi::Promise start(Napi::Env env, Work work, Settle settle, Always always = [] {}) {
    auto* worker = new PromiseWorker(env, std::move(work), std::move(settle), std::move(always));
    const Napi::Promise promise = worker->deferred_.Promise();
    worker->Queue();  // from here on it deletes itself
    return promise;
  }

 protected:
  void Execute() override {
    try {
      result_.emplace(work_());
    } catch (const InputFault& fault) {
      fail(fault.what(), kInputCode);
    } catch (const EnvironmentFault& fault) {
      fail(fault.what(), kEnvironmentCode);
    } catch (const LogitsFault& fault) {
      fail(fault.what(), kLogitsCode);
    } catch (const fp8::DeviceLack& lack) {
      fail(lack.what(), kEnvironmentCode);
    } catch (const fp8::DeviceFault& fault) {
      fail(fault.what(), kDeviceCode);
    } catch (const std::bad_alloc&) {
      fail("out of memory", kEnvironmentCode);
    } catch (const std::length_error&) {
      fail("out of memory", kEnvironmentCode);
    } catch (const std::exception& error) {
      fail(error.what(), nullptr);
    }
  }

  void OnOK() override {
    always_();
    try {
      deferred_.Resolve(settle_(Env(), *result_));
    } catch (const Napi::Error& error) {
      deferred_.Reject(error.Value());
    }
  }

  void OnError(const Napi::Error& error) override {
    always_();
    Napi::Error rejection = error;
    if (code_ != nullptr) rejection.Set("code", Napi::String::New(Env(), code_));
    deferred_.Reject(rejection.Value());
  }

 private:
  PromiseWorker(Napi::Env env, Work work, Settle settle, Always always)
      : Napi::AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        settle_(std::move(settle)),
        always_(std::move(always)) {}

  void fail(const std::string& message, const char* code) {
    code_ = code;
    SetError(message);
  }

  Napi::Promise::Deferred deferred_;
  Work work_;
  Settle settle_;
  Always always_;
  std::optional<Result> result_;
  const char* code_ = nullptr;
};

}  // namespace kilotoken
