// Just enough JSON to hand samples over: objects and arrays written in order, numbers with all their digits.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>
#include <type_traits>
#include <vector>

namespace kilotoken::bench {

class Json {
 public:
  Json& begin(const char* name = nullptr) { return open(name, '{'); }
  Json& list(const char* name = nullptr) { return open(name, '['); }
  Json& end() { return close('}'); }
  Json& end_list() { return close(']'); }

  template <class Number>
  Json& number(const char* name, Number value) {
    static_assert(std::is_arithmetic_v<Number>);
    place(name);
    char digits[40];
    if constexpr (std::is_integral_v<Number>) std::snprintf(digits, sizeof digits, "%lld", static_cast<long long>(value));
    else std::snprintf(digits, sizeof digits, std::isfinite(value) ? "%.17g" : "null", static_cast<double>(value));
    text_ += digits;
    return *this;
  }
  Json& null(const char* name) {
    place(name);
    text_ += "null";
    return *this;
  }
  // The text must hold nothing that JSON escapes.
  Json& string(const char* name, const std::string& value) {
    place(name);
    text_ += '"' + value + '"';
    return *this;
  }
  Json& numbers(const char* name, const std::vector<double>& values) {
    list(name);
    for (const double x : values) number(nullptr, x);
    return end_list();
  }

  const std::string& text() const { return text_; }

 private:
  void place(const char* name) {
    if (!text_.empty() && text_.back() != '{' && text_.back() != '[') text_ += ',';
    if (name != nullptr) text_ += '"' + std::string(name) + "\":";
  }
  Json& open(const char* name, char mark) {
    place(name);
    text_ += mark;
    return *this;
  }
  Json& close(char mark) {
    text_ += mark;
    return *this;
  }

  std::string text_;
};

}  // namespace kilotoken::bench
