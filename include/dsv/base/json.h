// A JSON value for manifests, headers, and metrics. Parsing is strict and bounded: files may be
// hostile.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "dsv/base/error.h"

namespace dsv {

class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;  // keeps the order of insertion; names are unique

  Json() = default;
  Json(std::nullptr_t) {}                                          // NOLINT
  Json(bool v) : value_(v) {}                                      // NOLINT
  Json(int v) : value_(static_cast<std::int64_t>(v)) {}            // NOLINT
  Json(std::int64_t v) : value_(v) {}                              // NOLINT
  Json(std::uint64_t v) : value_(v) {}                             // NOLINT
  Json(std::uint32_t v) : value_(static_cast<std::int64_t>(v)) {}  // NOLINT
  Json(double v) : value_(v) {}                                    // NOLINT
  Json(const char* v) : value_(std::string(v)) {}                  // NOLINT
  Json(std::string v) : value_(std::move(v)) {}                    // NOLINT
  Json(std::string_view v) : value_(std::string(v)) {}             // NOLINT
  Json(Array v) : value_(std::move(v)) {}                          // NOLINT
  Json(Object v) : value_(std::move(v)) {}                         // NOLINT
  static Json object() { return Json(Object{}); }
  static Json array() { return Json(Array{}); }

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_integer() const {
    return std::holds_alternative<std::int64_t>(value_) ||
           std::holds_alternative<std::uint64_t>(value_);
  }
  bool is_number() const { return is_integer() || std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }

  // Typed access; a wrong type throws Error(kCorruptInput) that says what was expected and found.
  bool as_bool() const;
  std::int64_t as_int() const;    // also refuses uint64 beyond int64
  std::uint64_t as_uint() const;  // refuses negatives
  double as_double() const;       // any number
  const std::string& as_string() const;
  const Array& as_array() const;
  const Object& as_object() const;
  Array& as_array();
  Object& as_object();

  // Object access: find returns nullptr when absent, at throws, set replaces or appends.
  const Json* find(std::string_view key) const;
  const Json& at(std::string_view key) const;
  Json& set(std::string_view key, Json value);
  void push_back(Json value) { as_array().push_back(std::move(value)); }
  std::size_t size() const;

  // Compact for indent < 0. Doubles print in the shortest form that reads back to the same bits;
  // non-finite doubles print as the strings "NaN", "Infinity", "-Infinity", as JSON has no such
  // numbers.
  std::string dump(int indent = -1) const;
  bool operator==(const Json&) const = default;

  const char* type_name() const;

 private:
  std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string, Array,
               Object>
      value_;
};

struct JsonLimits {
  int max_depth = 64;
  std::size_t max_bytes = 100u << 20;
  std::size_t max_values = 20'000'000;
};

// Throws Error(kCorruptInput): "[json] WHERE: …" for malformed text, invalid UTF-8, duplicate
// names, trailing characters, numbers out of range, or more than the limits allow.
Json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits = {});

}  // namespace dsv
