// JavaScript values into plain C++ ones, checked: every wrong type, fraction, overflow or missing field is an InputFault that
// names the field. Runs on the JavaScript thread only.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>
#include <vector>

#include "native/engine/model.h"
#include "native/engine/spec.h"
#include "native/engine/toy.h"

namespace kilotoken {

// An object whose fields are read by name; `path` is how messages call it.
class Fields {
 public:
  Fields(const Napi::Value& value, std::string path);

  double number(const char* name) const;
  // An integer in 0 .. 2^53 - 1.
  uint64_t count(const char* name) const;
  bool flag(const char* name) const;
  std::string text(const char* name) const;
  Fields object(const char* name) const;
  std::vector<Fields> objects(const char* name) const;
  std::vector<uint64_t> counts(const char* name) const;
  Napi::Value value(const char* name) const;
  bool present(const char* name) const;  // neither undefined nor null
  std::string path(const char* name) const { return path_ + "." + name; }

 private:
  Napi::Object object_;
  std::string path_;
};

// An Array of integers or an Int32Array, of at most `limit` ids.
std::vector<int32_t> ids_of(const Napi::Value& value, const std::string& name, size_t limit);
uint64_t count_of(const Napi::Value& value, const std::string& name);

ModelSpec model_spec_of(const Napi::Value& value);
ToySpec toy_spec_of(const Napi::Value& value);
Decoding decoding_of(const Fields& fields, size_t vocab);
SessionOptions session_options_of(const Fields& fields);

}  // namespace kilotoken
