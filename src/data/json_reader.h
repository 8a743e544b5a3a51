// Typed, bounded access to members of JSON objects out of files, complaining in one voice.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>

#include "dsv/base/json.h"
#include "dsv/data/text.h"
#include "dsv/tensor/dtype.h"

namespace dsv::data {

// One JSON object. Errors are kCorruptInput, "WHERE: reason"; finish refuses keys it is not given.
class JsonReader {
 public:
  JsonReader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) fail("expected an object, got a {}", json.type_name());
  }

  template <typename... Args>
  [[noreturn]] void fail(std::string_view pattern, const Args&... args) const {
    throw_error(ExitCode::kCorruptInput, "{}: {}", where_, format(pattern, args...));
  }
  const Json* find(std::string_view key) const { return json_.find(key); }
  const Json& at(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) fail("'{}' is missing", key);
    return *value;
  }
  const std::string& string(std::string_view key, std::size_t max_bytes) const {
    const Json& value = at(key);
    if (!value.is_string()) fail("expected a string '{}', got a {}", key, value.type_name());
    if (value.as_string().size() > max_bytes) {
      fail("'{}' has {} bytes, expected at most {}", key, value.as_string().size(), max_bytes);
    }
    return value.as_string();
  }
  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high) const {
    return integer(at(key), key, low, high);
  }
  std::int64_t integer(const Json& value, std::string_view key, std::int64_t low,
                       std::int64_t high) const {
    if (!value.is_integer()) fail("expected an integer '{}', got a {}", key, value.type_name());
    const double v = value.as_double();
    if (v < static_cast<double>(low) || v > static_cast<double>(high)) {
      fail("expected '{}' in [{}, {}], got {}", key, low, high, v);
    }
    return value.as_int();
  }
  double number(std::string_view key, double low, double high) const {
    const Json& value = at(key);
    if (!value.is_number()) fail("expected a number '{}', got a {}", key, value.type_name());
    const double v = value.as_double();
    if (!(v >= low && v <= high)) fail("expected '{}' in [{}, {}], got {}", key, low, high, v);
    return v;
  }
  // Exactly `digits` lower-case hexadecimal digits.
  std::uint64_t hex(std::string_view key, std::size_t digits) const {
    const std::string& text = string(key, 64);
    std::uint64_t value = 0;
    for (const char c : text) {
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
      if (digit < 0 || text.size() != digits) {
        fail("expected {} hexadecimal digits in '{}', got '{}'", digits, key, printable(text));
      }
      value = value << 4 | static_cast<std::uint64_t>(digit);
    }
    if (text.size() != digits) fail("expected {} hexadecimal digits in '{}'", digits, key);
    return value;
  }
  // A plain name: nothing that could lead out of the folder, or hide in it.
  std::string file_name(std::string_view key) const {
    const std::string& name = string(key, 255);
    bool plain = !name.empty() && name[0] != '.' && name.size() > 12 &&
                 name.compare(name.size() - 12, 12, ".safetensors") == 0;
    for (const char c : name) {
      plain = plain && c != '/' && c != '\\' && static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
    }
    if (!plain) {
      fail("expected a plain file name NAME.safetensors in '{}', got '{}'", key, printable(name));
    }
    return name;
  }
  DType dtype(std::string_view key) const {
    const std::string& name = string(key, 64);
    const auto dtype = parse_dtype(name);
    if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16) {
      fail("expected F32, BF16 or F16 in '{}', got '{}'", key, printable(name));
    }
    return *dtype;
  }
  void finish(std::initializer_list<std::string_view> known) const {
    for (const auto& [key, value] : json_.as_object()) {
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        fail("unknown key '{}'", printable(key));
      }
    }
  }

 private:
  const Json& json_;
  std::string where_;
};

}  // namespace dsv::data
