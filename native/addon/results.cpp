#include "results.h"

#include <algorithm>

namespace kilotoken {

namespace {

template <class T>
Napi::Array numbers(Napi::Env env, const std::vector<T>& from) {
  Napi::Array out = Napi::Array::New(env, from.size());
  for (size_t i = 0; i < from.size(); ++i)
    out.Set(static_cast<uint32_t>(i), Napi::Number::New(env, static_cast<double>(from[i])));
  return out;
}

Napi::Float64Array row(Napi::Env env, const std::vector<double>& from) {
  Napi::Float64Array out = Napi::Float64Array::New(env, from.size());
  std::copy(from.begin(), from.end(), out.Data());
  return out;
}

Napi::Array rows(Napi::Env env, const std::vector<std::vector<double>>& from) {
  Napi::Array out = Napi::Array::New(env, from.size());
  for (size_t i = 0; i < from.size(); ++i) out.Set(static_cast<uint32_t>(i), row(env, from[i]));
  return out;
}

const char* name_of(Stream stream) {
  switch (stream) {
    case Stream::kTargetSample: return "target";
    case Stream::kDraftSample: return "draft";
    case Stream::kAcceptCoin: return "accept";
    case Stream::kResidualSample: return "residual";
    case Stream::kGumbel: return "gumbel";
  }
  return "";
}

Napi::Object replay_to_js(Napi::Env env, const Replay& replay) {
  Napi::Array uniforms = Napi::Array::New(env, replay.uniforms.size());
  for (size_t i = 0; i < replay.uniforms.size(); ++i) {
    const UniformUse& use = replay.uniforms[i];
    Napi::Object item = Napi::Object::New(env);
    item.Set("stream", name_of(use.stream));
    item.Set("position", use.position);
    item.Set("round", use.round);
    item.Set("draw", 0);
    item.Set("u", use.u);
    uniforms.Set(static_cast<uint32_t>(i), item);
  }
  Napi::Array noise = Napi::Array::New(env, replay.noise.size());
  for (size_t i = 0; i < replay.noise.size(); ++i) {
    Napi::Object item = Napi::Object::New(env);
    item.Set("of", replay.noise[i].draft ? "draft" : "target");
    item.Set("position", replay.noise[i].position);
    item.Set("round", 0);
    item.Set("u", row(env, replay.noise[i].u));
    noise.Set(static_cast<uint32_t>(i), item);
  }
  Napi::Object out = Napi::Object::New(env);
  if (!replay.noise.empty()) out.Set("noise", noise);
  out.Set("p", rows(env, replay.p));
  out.Set("q", rows(env, replay.q));
  out.Set("uniforms", uniforms);
  return out;
}

}  // namespace

Napi::Value round_to_js(Napi::Env env, const Round& round) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("kind", round.prefill ? "prefill" : "decode");
  out.Set("committed", numbers(env, round.committed));
  out.Set("drafted", numbers(env, round.drafted));
  out.Set("accepted", round.accepted);
  out.Set("finish", round.finish == Finish::kNone ? env.Null()
                                                  : Napi::Value(Napi::String::New(env, round.finish == Finish::kStop ? "stop" : "length")));
  out.Set("draftNs", static_cast<double>(round.draft_ns));
  out.Set("verifyNs", static_cast<double>(round.verify_ns));
  out.Set("totalNs", static_cast<double>(round.total_ns));
  out.Set("distinctExperts", numbers(env, round.distinct_experts));
  if (!round.replay.p.empty()) out.Set("replay", replay_to_js(env, round.replay));
  return out;
}

Napi::Value top_rows_to_js(Napi::Env env, const std::vector<TopRow>& from) {
  Napi::Array ids = Napi::Array::New(env, from.size()), logprobs = Napi::Array::New(env, from.size());
  for (size_t i = 0; i < from.size(); ++i) {
    ids.Set(static_cast<uint32_t>(i), numbers(env, from[i].ids));
    logprobs.Set(static_cast<uint32_t>(i), numbers(env, from[i].logprobs));
  }
  Napi::Object out = Napi::Object::New(env);
  out.Set("topIds", ids);
  out.Set("topLogprobs", logprobs);
  return out;
}

Napi::Value scored_to_js(Napi::Env env, const Scored& scored) {
  Napi::Object out = top_rows_to_js(env, scored.top).As<Napi::Object>();
  out.Set("nextLogprobs", numbers(env, scored.next_logprobs));
  return out;
}

}  // namespace kilotoken
