#include "values.h"

#include <charconv>
#include <cmath>
#include <utility>

#include "native/engine/fault.h"

namespace kilotoken {

namespace {

constexpr double kLargestInteger = 9007199254740991.0;  // 2^53 - 1

[[noreturn]] void wrong(const std::string& name, const char* expected) {
  throw InputFault(name + " must be " + expected);
}

uint64_t count_from(double x, const std::string& name) {
  if (!(x >= 0 && x <= kLargestInteger && std::floor(x) == x)) wrong(name, "an integer, 0 or more");
  return static_cast<uint64_t>(x);
}

TensorMap tensors_of(const Fields& fields, const char* name) {
  TensorMap tensors;
  for (const Fields& item : fields.objects(name)) {
    TensorRecord record;
    record.dtype = item.text("dtype");
    record.shape = item.counts("shape");
    record.file = item.text("file");
    record.offset = item.count("offset");
    record.bytes = item.count("bytes");
    tensors.insert_or_assign(item.text("name"), std::move(record));
  }
  return tensors;
}

// The fields that the target's layers and the draft spell alike.
AttentionPlan heads_of(const Fields& fields) {
  AttentionPlan plan;
  plan.q_heads = fields.count("qHeads");
  plan.kv_heads = fields.count("kvHeads");
  plan.head_dim = fields.count("headDim");
  plan.v_head_dim = fields.count("vHeadDim");
  plan.rotary_dim = fields.count("rotaryDim");
  plan.rope_theta = fields.number("ropeTheta");
  plan.window = fields.count("window");
  plan.sink = fields.flag("sink");
  return plan;
}

LayerPlan layer_of(const Fields& fields) {
  LayerPlan layer;
  const Fields attention = fields.object("attention");
  layer.attention = heads_of(attention);
  layer.attention.fused_groups = attention.count("fusedGroups");
  const Fields ffn = fields.object("ffn");
  const std::string kind = ffn.text("kind");
  if (kind != "dense" && kind != "moe") wrong(ffn.path("kind"), "'dense' or 'moe'");
  layer.mixture = kind == "moe";
  layer.ffn_width = ffn.count("width");
  return layer;
}

std::vector<float> floats_of(const Napi::Value& value, const std::string& name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array) wrong(name, "a Float32Array");
  const auto array = value.As<Napi::Float32Array>();
  return std::vector<float>(array.Data(), array.Data() + array.ElementLength());
}

std::vector<double> uniforms_of(const Napi::Value& value, const std::string& name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) wrong(name, "a Float64Array");
  const auto array = value.As<Napi::Float64Array>();
  std::vector<double> uniforms(array.Data(), array.Data() + array.ElementLength());
  for (const double u : uniforms)
    if (!(u >= 0.0 && u < 1.0)) wrong(name, "numbers in [0, 1)");
  return uniforms;
}

}  // namespace

Fields::Fields(const Napi::Value& value, std::string path) : path_(std::move(path)) {
  if (!value.IsObject()) wrong(path_, "an object");
  object_ = value.As<Napi::Object>();
}

Napi::Value Fields::value(const char* name) const { return object_.Get(name); }

bool Fields::present(const char* name) const {
  const Napi::Value v = value(name);
  return !v.IsUndefined() && !v.IsNull();
}

double Fields::number(const char* name) const {
  const Napi::Value v = value(name);
  if (!v.IsNumber()) wrong(path(name), "a number");
  return v.As<Napi::Number>().DoubleValue();
}

uint64_t Fields::count(const char* name) const { return count_from(number(name), path(name)); }

bool Fields::flag(const char* name) const {
  const Napi::Value v = value(name);
  if (!v.IsBoolean()) wrong(path(name), "a boolean");
  return v.As<Napi::Boolean>().Value();
}

std::string Fields::text(const char* name) const {
  const Napi::Value v = value(name);
  if (!v.IsString()) wrong(path(name), "a string");
  return v.As<Napi::String>().Utf8Value();
}

Fields Fields::object(const char* name) const { return Fields(value(name), path(name)); }

std::vector<Fields> Fields::objects(const char* name) const {
  const Napi::Value v = value(name);
  if (!v.IsArray()) wrong(path(name), "an array");
  const auto array = v.As<Napi::Array>();
  std::vector<Fields> out;
  for (uint32_t i = 0; i < array.Length(); ++i) out.emplace_back(array.Get(i), path(name) + "[" + std::to_string(i) + "]");
  return out;
}

std::vector<uint64_t> Fields::counts(const char* name) const {
  const Napi::Value v = value(name);
  if (!v.IsArray()) wrong(path(name), "an array");
  const auto array = v.As<Napi::Array>();
  std::vector<uint64_t> out;
  for (uint32_t i = 0; i < array.Length(); ++i) out.push_back(count_of(array.Get(i), path(name)));
  return out;
}

uint64_t count_of(const Napi::Value& value, const std::string& name) {
  if (!value.IsNumber()) wrong(name, "a number");
  return count_from(value.As<Napi::Number>().DoubleValue(), name);
}

std::vector<int32_t> ids_of(const Napi::Value& value, const std::string& name, size_t limit) {
  const auto check_length = [&](size_t length) {
    if (length > limit)
      throw InputFault(name + " has " + std::to_string(length) + " ids; at most " + std::to_string(limit) + " fit");
  };
  if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_int32_array) {
    const auto array = value.As<Napi::Int32Array>();
    check_length(array.ElementLength());
    return std::vector<int32_t>(array.Data(), array.Data() + array.ElementLength());
  }
  if (!value.IsArray()) wrong(name, "an array of token ids");
  const auto array = value.As<Napi::Array>();
  const uint32_t length = array.Length();
  check_length(length);
  std::vector<int32_t> ids;
  for (uint32_t i = 0; i < length; ++i) {
    const Napi::Value item = array.Get(i);
    const double x = item.IsNumber() ? item.As<Napi::Number>().DoubleValue() : -1.5;
    if (!(x >= INT32_MIN && x <= INT32_MAX && std::floor(x) == x)) wrong(name + "[" + std::to_string(i) + "]", "a token id");
    ids.push_back(static_cast<int32_t>(x));
  }
  return ids;
}

ModelSpec model_spec_of(const Napi::Value& value) {
  const Fields fields(value, "checkpoint");
  ModelSpec spec;
  TargetPlan& target = spec.target;
  target.hidden = fields.count("hidden");
  target.vocab = fields.count("vocab");
  target.epsilon = static_cast<float>(fields.number("eps"));
  target.value_scale = static_cast<float>(fields.number("valueScale"));
  target.experts = fields.count("experts");
  target.experts_per_token = fields.count("topK");
  target.normalise_expert_weights = fields.flag("normTopK");
  target.routed_scale = static_cast<float>(fields.number("routedScale"));
  target.max_context = fields.count("maxContext");
  for (const Fields& layer : fields.objects("layers")) target.layers.push_back(layer_of(layer));
  spec.head_tensor = fields.text("headTensor");
  spec.tensors = tensors_of(fields, "tensors");

  const std::string activations = fields.text("activations");
  if (activations != "bf16" && activations != "fp8") wrong(fields.path("activations"), "'bf16' or 'fp8'");
  spec.activations = activations == "fp8" ? Activations::kFp8 : Activations::kBf16;
  if (fields.present("instructionSet")) spec.instruction_set = fields.text("instructionSet");

  spec.has_draft = fields.present("draft");
  if (spec.has_draft) {
    const Fields from = fields.object("draft");
    DraftPlan& draft = spec.draft;
    draft.layers = from.count("layers");
    draft.attention = heads_of(from);
    draft.epsilon = static_cast<float>(from.number("eps"));
    draft.value_scale = static_cast<float>(from.number("valueScale"));
    draft.ffn_width = from.count("ffnWidth");
    draft.block_size = from.count("blockSize");
    for (const uint64_t id : from.counts("targetLayerIds")) draft.target_layer_ids.push_back(id);
    const uint64_t mask = from.count("maskTokenId");
    if (mask > INT32_MAX) wrong(from.path("maskTokenId"), "a token id");
    draft.mask_token_id = static_cast<int32_t>(mask);
    spec.mask_embedding = floats_of(from.value("maskEmbedding"), from.path("maskEmbedding"));
    spec.draft_tensors = tensors_of(from, "tensors");
  }
#ifdef KILOTOKEN_DEFECTS
  if (fields.present("defect")) {
    Networks& networks = target.networks;
    if (!networks.choose(fields.text("defect"))) wrong(fields.path("defect"), "a defect of this build's networks");
    spec.draft.networks = networks;
    networks.plans(target, spec.draft);
  }
#endif
  return spec;
}

ToySpec toy_spec_of(const Napi::Value& value) {
  const Fields fields(value, "toy");
  ToySpec spec;
  spec.vocab = fields.count("vocab");
  spec.order = fields.count("order");
  spec.block = fields.count("block");
  spec.max_context = fields.count("maxContext");
  spec.target_logits = floats_of(fields.value("targetLogits"), fields.path("targetLogits"));
  spec.draft_logits = floats_of(fields.value("draftLogits"), fields.path("draftLogits"));
  spec.allow_nan = fields.flag("allowNan");
  return spec;
}

Decoding decoding_of(const Fields& fields, size_t vocab) {
  Decoding decoding;
  const std::string seed = fields.text("seed");
  const auto [end, error] = std::from_chars(seed.data(), seed.data() + seed.size(), decoding.seed);
  if (seed.empty() || error != std::errc() || end != seed.data() + seed.size())
    wrong(fields.path("seed"), "an unsigned 64-bit integer in decimal");
  decoding.temperature = fields.number("temperature");
  decoding.top_p = fields.number("topP");
  decoding.top_k = fields.count("topK");
  decoding.max_tokens = fields.count("maxTokens");
  decoding.stop_ids = ids_of(fields.value("stopIds"), fields.path("stopIds"), vocab);
  return decoding;
}

SessionOptions session_options_of(const Fields& fields) {
  SessionOptions options;
  options.block_size = fields.count("blockSize");
  const std::string rule = fields.text("rule");
  if (rule == "match") options.rule = Rule::kMatch;
  else if (rule == "reject") options.rule = Rule::kReject;
  else if (rule == "coupled") options.rule = Rule::kCoupled;
  else wrong(fields.path("rule"), "'match', 'reject' or 'coupled'");
  options.replay = fields.flag("replay");
  if (fields.present("tape")) options.tape = uniforms_of(fields.value("tape"), fields.path("tape"));
#ifdef KILOTOKEN_DEFECTS
  if (fields.present("defect") && !options.decisions.choose(fields.text("defect"))) wrong(fields.path("defect"), "a defect of this build");
#endif
  return options;
}

}  // namespace kilotoken
