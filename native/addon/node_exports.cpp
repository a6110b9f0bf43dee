#include "node_exports.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <memory>
#include <utility>

#include "native/cuda/collectives.h"
#include "native/cuda/node.h"
#include "promise_worker.h"
#include "results.h"
#include "values.h"

namespace kilotoken {

namespace {

constexpr size_t kMostIds = size_t{1} << 22;

uint64_t unsigned_of(const std::string& text, const std::string& path) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) throw InputFault(path + " must be an unsigned 64-bit integer in decimal");
  return value;
}

NodeSpec spec_of(const Napi::Value& value) {
  const Fields fields(value, "spec");
  NodeSpec spec;
  spec.reference = fields.text("engine") == "reference";
  spec.fp8_experts = fields.text("experts") == "fp8";
  const uint64_t layers = fields.count("layers"), gpus = fields.count("gpus");
  if (layers < 1 || layers > 4096) throw InputFault("spec.layers must be 1 to 4096");
  if (gpus < 1 || gpus > 64) throw InputFault("spec.gpus must be 1 to 64");
  spec.layers = static_cast<uint32_t>(layers);
  spec.gpus = static_cast<uint32_t>(gpus);
  spec.shared_routing = fields.number("sharedRouting");
  spec.max_context = fields.count("maxContext");
  if (fields.present("filledContext")) spec.filled_context = fields.count("filledContext");
  spec.seed = unsigned_of(fields.text("seed"), "spec.seed");
  return spec;
}

NodeRequest request_of(const Napi::Value& value) {
  const Fields fields(value, "request");
  NodeRequest request;
  request.prompt = ids_of(fields.value("prompt"), "request.prompt", kMostIds);
  request.filled_context = fields.count("filledContext");
  request.max_tokens = fields.count("maxTokens");
  const uint64_t block = fields.count("block");
  if (block < 1 || block > 64) throw InputFault("request.block must be 1 to 64");
  request.block = static_cast<int>(block);
  if (fields.present("proposals")) request.proposals = ids_of(fields.value("proposals"), "request.proposals", kMostIds);
  if (!request.proposals.empty() && request.proposals.size() < request.max_tokens) throw InputFault("request.proposals is shorter than the output");
  request.trace = fields.flag("trace");
  const std::string mode = fields.text("mode");
  if (mode == "ops") request.mode = NodeMode::kOps;
  else if (mode == "graph") request.mode = NodeMode::kGraph;
  else if (mode == "resident") request.mode = NodeMode::kResident;
  else throw InputFault("request.mode must be ops, graph or resident");
  return request;
}

// Taken away by close(), on a pool thread: giving memory back can take a while.
template <class T>
struct Held {
  std::shared_ptr<T> value;
  const std::shared_ptr<T>& get(const char* what) const {
    if (!value) throw InputFault(std::string("the ") + what + " is closed");
    return value;
  }
};

using Call = std::function<Napi::Value(const Napi::CallbackInfo&)>;

void set(Napi::Object object, const char* name, Call call) {
  object.Set(name, Napi::Function::New(
                       object.Env(), [call = std::move(call)](const Napi::CallbackInfo& info) -> Napi::Value { return with_js_errors(info.Env(), [&] { return call(info); }); },
                       name));
}

Napi::Value nothing(Napi::Env env, bool&) { return env.Undefined(); }

template <class T>
void set_close(Napi::Object object, const std::shared_ptr<Held<T>>& held) {
  set(object, "close", [held](const Napi::CallbackInfo& info) {
    return PromiseWorker<bool>::start(
        info.Env(),
        [value = std::exchange(held->value, nullptr)]() mutable {
          value.reset();
          return true;
        },
        nothing);
  });
}

Napi::Value decoded_to_js(Napi::Env env, const NodeDecoded& decoded) {
  Napi::Array rounds = Napi::Array::New(env, decoded.rounds.size());
  for (size_t i = 0; i < decoded.rounds.size(); ++i) rounds.Set(static_cast<uint32_t>(i), round_to_js(env, decoded.rounds[i]));
  Napi::Object out = Napi::Object::New(env);
  out.Set("rounds", rounds);
  out.Set("prefillNs", static_cast<double>(decoded.prefill_ns));
  return out;
}

Napi::Value trace_to_js(Napi::Env env, std::vector<NodeTraceOp>& ops) {
  Napi::Array out = Napi::Array::New(env, ops.size());
  for (size_t i = 0; i < ops.size(); ++i) {
    Napi::Object op = Napi::Object::New(env);
    op.Set("op", ops[i].op);
    op.Set("count", ops[i].count);
    op.Set("totalNs", ops[i].total_ns);
    op.Set("mathNs", ops[i].math_ns);
    op.Set("busyNs", ops[i].busy_ns);
    op.Set("slowestNs", ops[i].slowest_ns);
    out.Set(static_cast<uint32_t>(i), op);
  }
  return out;
}

Napi::Value sequence_to_js(Napi::Env env, std::unique_ptr<NodeSequence>& made) {
  auto held = std::make_shared<Held<NodeSequence>>();
  held->value = std::move(made);
  Napi::Object out = Napi::Object::New(env);
  // decode() -> Promise<undefined>: what it made is read by decoded(), so that a clock around it does not see the copying
  set(out, "decode", [held](const Napi::CallbackInfo& info) {
    return PromiseWorker<bool>::start(
        info.Env(),
        [sequence = held->get("sequence")] {
          sequence->decode();
          return true;
        },
        nothing);
  });
  set(out, "decoded", [held](const Napi::CallbackInfo& info) { return decoded_to_js(info.Env(), held->get("sequence")->decoded()); });
  // logits() -> Promise<Float32Array | null>
  set(out, "logits", [held](const Napi::CallbackInfo& info) {
    return PromiseWorker<std::vector<float>>::start(
        info.Env(), [sequence = held->get("sequence")] { return sequence->logits(); },
        [](Napi::Env env, std::vector<float>& logits) -> Napi::Value {
          if (logits.empty()) return env.Null();
          Napi::Float32Array out = Napi::Float32Array::New(env, logits.size());
          std::copy(logits.begin(), logits.end(), out.Data());
          return out;
        });
  });
  // trace() -> Promise<[{op, count, totalNs, mathNs, busyNs, slowestNs}]>
  set(out, "trace", [held](const Napi::CallbackInfo& info) {
    return PromiseWorker<std::vector<NodeTraceOp>>::start(info.Env(), [sequence = held->get("sequence")] { return sequence->trace(); }, trace_to_js);
  });
  set_close(out, held);
  return out;
}

Napi::Value model_to_js(Napi::Env env, std::shared_ptr<NodeModel>& model) {
  auto held = std::make_shared<Held<NodeModel>>();
  held->value = std::move(model);
  Napi::Object out = Napi::Object::New(env);
  out.Set("weightBytes", static_cast<double>(held->value->weight_bytes()));
  // generate(request) -> Promise<Sequence>
  set(out, "generate", [held](const Napi::CallbackInfo& info) {
    return PromiseWorker<std::unique_ptr<NodeSequence>>::start(
        info.Env(), [model = held->get("model"), request = request_of(info[0])] { return model->generate(request); }, sequence_to_js);
  });
  set_close(out, held);
  return out;
}

Napi::Object gpu_to_js(Napi::Env env, const NodeGpu& gpu) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("index", gpu.index);
  out.Set("name", gpu.name);
  out.Set("memory", static_cast<double>(gpu.memory));
  out.Set("freeMemory", static_cast<double>(gpu.free_memory));
  Napi::Array peers = Napi::Array::New(env, gpu.peers.size());
  for (size_t i = 0; i < gpu.peers.size(); ++i) peers.Set(static_cast<uint32_t>(i), gpu.peers[i]);
  out.Set("peers", peers);
  return out;
}

// nodeDescribe() -> Promise of what the machine has and the engines lack
Napi::Value describe(const Napi::CallbackInfo& info) {
  return PromiseWorker<NodeReport>::start(info.Env(), inspect_node, [](Napi::Env env, NodeReport& report) -> Napi::Value {
    Napi::Object out = Napi::Object::New(env), lacks = Napi::Object::New(env);
    Napi::Array gpus = Napi::Array::New(env, report.gpus.size());
    for (size_t i = 0; i < report.gpus.size(); ++i) gpus.Set(static_cast<uint32_t>(i), gpu_to_js(env, report.gpus[i]));
    lacks.Set("fp8Experts", report.fp8_experts);
    lacks.Set("reference", report.reference);
    lacks.Set("filledContext", report.filled_context);
    lacks.Set("sharedRouting", report.shared_routing);
    out.Set("lack", report.lack);
    out.Set("gpus", gpus);
    out.Set("lacks", lacks);
    return out;
  });
}

// nodeOpen(spec) -> Promise<Model>
Napi::Value open(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    return PromiseWorker<std::shared_ptr<NodeModel>>::start(
        info.Env(), [spec = spec_of(info[0])] { return open_node(spec); }, model_to_js);
  });
}

// nodeReadCeiling(gpus) -> Promise<{bytesPerSecond, method}>
Napi::Value read_ceiling(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    const uint64_t gpus = count_of(info[0], "gpus");
    if (gpus < 1 || gpus > 64) throw InputFault("gpus must be 1 to 64");
    return PromiseWorker<NodeReadCeiling>::start(
        info.Env(), [gpus] { return node_read_ceiling(static_cast<uint32_t>(gpus)); },
        [](Napi::Env env, NodeReadCeiling& ceiling) -> Napi::Value {
          Napi::Array rates = Napi::Array::New(env, ceiling.bytes_per_second.size());
          for (size_t i = 0; i < ceiling.bytes_per_second.size(); ++i) rates.Set(static_cast<uint32_t>(i), ceiling.bytes_per_second[i]);
          Napi::Object out = Napi::Object::New(env);
          out.Set("bytesPerSecond", rates);
          out.Set("method", ceiling.method);
          return out;
        });
  });
}

// nodeCollectives(gpus) -> Promise<{samples, sums}>: a JSON text, and Float32Arrays by check and rank
Napi::Value collectives(const Napi::CallbackInfo& info) {
  return with_js_errors(info.Env(), [&] {
    const uint64_t gpus = count_of(info[0], "gpus");
    if (gpus < 2 || gpus > 8) throw InputFault("gpus must be 2 to 8");
    return PromiseWorker<NodeCollectives>::start(
        info.Env(), [gpus] { return node_collectives(static_cast<uint32_t>(gpus)); },
        [](Napi::Env env, NodeCollectives& made) -> Napi::Value {
          Napi::Array sums = Napi::Array::New(env, made.sums.size());
          for (size_t i = 0; i < made.sums.size(); ++i) {
            Napi::Array ranks = Napi::Array::New(env, made.sums[i].size());
            for (size_t r = 0; r < made.sums[i].size(); ++r) {
              const std::vector<float>& values = made.sums[i][r];
              Napi::Float32Array copy = Napi::Float32Array::New(env, values.size());
              std::copy(values.begin(), values.end(), copy.Data());
              ranks.Set(static_cast<uint32_t>(r), copy);
            }
            sums.Set(static_cast<uint32_t>(i), ranks);
          }
          Napi::Object out = Napi::Object::New(env);
          out.Set("samples", made.samples);
          out.Set("sums", sums);
          return out;
        });
  });
}

}  // namespace

void export_node(Napi::Env env, Napi::Object exports) {
  exports.Set("nodeDescribe", Napi::Function::New<describe>(env, "nodeDescribe"));
  exports.Set("nodeOpen", Napi::Function::New<open>(env, "nodeOpen"));
  exports.Set("nodeCollectives", Napi::Function::New<collectives>(env, "nodeCollectives"));
  exports.Set("nodeReadCeiling", Napi::Function::New<read_ceiling>(env, "nodeReadCeiling"));
}

}  // namespace kilotoken
