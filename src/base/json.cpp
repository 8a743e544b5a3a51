#include "dsv/base/json.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "dsv/base/printable.h"

namespace dsv {
namespace {

// Without the tag of "[json.exception.parse_error.101] parse error at line 1, column 5: WHY"; fit to be
// shown, as it quotes the file.
std::string reason_of(std::string_view what) {
  constexpr std::string_view kTagEnd = "] ", kPosition = "parse error at ";
  if (const auto end = what.find(kTagEnd); what.starts_with("[json.exception.") && end != what.npos) {
    what.remove_prefix(end + kTagEnd.size());
  }
  if (what.starts_with(kPosition)) what.remove_prefix(kPosition.size());
  return printable(what, 200);
}

[[noreturn]] void wrong_type(const char* expected, const Json& got) {
  throw_error(ExitCode::kCorruptInput, "[json] expected {}, got {}", expected, got.type_name());
}

// Builds a Json from nlohmann's events, so that limits hold while parsing, not after.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(std::string_view where, const JsonLimits& limits) : where_(where), limits_(limits) {}

  bool null() override { return add(Json()); }
  bool boolean(bool v) override { return add(Json(v)); }
  bool number_integer(number_integer_t v) override { return add(Json(static_cast<std::int64_t>(v))); }
  bool number_unsigned(number_unsigned_t v) override {
    if (v <= static_cast<std::uint64_t>(INT64_MAX)) return add(Json(static_cast<std::int64_t>(v)));
    return add(Json(static_cast<std::uint64_t>(v)));
  }
  bool number_float(number_float_t v, const string_t& text) override {
    if (!std::isfinite(v)) return refuse(format("number '{}' is out of range", printable(text)));
    return add(Json(static_cast<double>(v)));
  }
  bool string(string_t& v) override { return add(Json(std::move(v))); }
  bool binary(binary_t&) override { return refuse("binary values are not JSON"); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (!names_.back().insert(name).second) {
      return refuse(format("duplicate name '{}'", printable(name)));
    }
    keys_.back() = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    return refuse(format("byte {}: {}", position, reason_of(e.what())));
  }

  Json take() {
    if (!error_.empty()) throw_error(ExitCode::kCorruptInput, "[json] {}: {}", where_, error_);
    return std::move(root_);
  }
  bool refuse(std::string why) {
    if (error_.empty()) error_ = std::move(why);
    return false;
  }

 private:
  bool add(Json value) {
    if (++num_values_ > limits_.max_values) return refuse("too many values");
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (open_.back().is_array()) {
      open_.back().push_back(std::move(value));
    } else {
      open_.back().as_object().emplace_back(std::move(keys_.back()), std::move(value));
    }
    return true;
  }
  bool open(Json container) {
    if (static_cast<int>(open_.size()) >= limits_.max_depth) {
      return refuse(format("nested deeper than {} levels", limits_.max_depth));
    }
    open_.push_back(std::move(container));
    names_.emplace_back();
    keys_.emplace_back();
    return true;
  }
  bool close() {
    Json done = std::move(open_.back());
    open_.pop_back();
    names_.pop_back();
    keys_.pop_back();
    return add(std::move(done));
  }

  std::string_view where_;
  JsonLimits limits_;
  Json root_;
  std::vector<Json> open_;
  std::vector<std::unordered_set<std::string>> names_;
  std::vector<std::string> keys_;
  std::size_t num_values_ = 0;
  std::string error_;
};

void append_string(std::string& out, const std::string& text) {
  out += '"';
  for (const char ch : text) {
    const auto c = static_cast<unsigned char>(ch);
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (c < 0x20) {
          out += format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += ch;
        }
    }
  }
  out += '"';
}

void append_double(std::string& out, double v) {
  if (!std::isfinite(v)) {
    out += std::isnan(v) ? "\"NaN\"" : v > 0 ? "\"Infinity\"" : "\"-Infinity\"";
    return;
  }
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), v).ptr;
  const std::string_view text(buffer, static_cast<std::size_t>(end - buffer));
  out += text;
  // Keep doubles doubles when read back.
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";
}

void append(std::string& out, const Json& v, int indent, int level) {
  const auto newline = [&](int l) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<std::size_t>(indent * l), ' ');
  };
  if (v.is_null()) {
    out += "null";
  } else if (v.is_bool()) {
    out += v.as_bool() ? "true" : "false";
  } else if (v.is_integer()) {
    out += v.as_double() < 0 ? std::to_string(v.as_int()) : std::to_string(v.as_uint());
  } else if (v.is_number()) {
    append_double(out, v.as_double());
  } else if (v.is_string()) {
    append_string(out, v.as_string());
  } else if (v.is_array()) {
    // Arrays of scalars stay on one line: shapes and offsets read better so.
    bool flat = true;
    for (const Json& x : v.as_array()) flat = flat && !x.is_array() && !x.is_object();
    out += '[';
    bool first = true;
    for (const Json& x : v.as_array()) {
      if (!first) out += indent >= 0 && flat ? ", " : ",";
      first = false;
      if (!flat) newline(level + 1);
      append(out, x, indent, level + 1);
    }
    if (!flat && !first) newline(level);
    out += ']';
  } else {
    out += '{';
    bool first = true;
    for (const auto& [name, x] : v.as_object()) {
      if (!first) out += ',';
      first = false;
      newline(level + 1);
      append_string(out, name);
      out += indent < 0 ? ":" : ": ";
      append(out, x, indent, level + 1);
    }
    if (!first) newline(level);
    out += '}';
  }
}

}  // namespace

const char* Json::type_name() const {
  static constexpr const char* kNames[] = {"null",   "bool",   "integer", "integer",
                                           "number", "string", "array",   "object"};
  return kNames[value_.index()];
}

bool Json::as_bool() const {
  if (!is_bool()) wrong_type("bool", *this);
  return std::get<bool>(value_);
}
std::int64_t Json::as_int() const {
  if (const auto* v = std::get_if<std::int64_t>(&value_)) return *v;
  if (const auto* v = std::get_if<std::uint64_t>(&value_); v != nullptr && *v <= INT64_MAX) {
    return static_cast<std::int64_t>(*v);
  }
  wrong_type("64-bit integer", *this);
}
std::uint64_t Json::as_uint() const {
  if (const auto* v = std::get_if<std::uint64_t>(&value_)) return *v;
  if (const auto* v = std::get_if<std::int64_t>(&value_); v != nullptr && *v >= 0) {
    return static_cast<std::uint64_t>(*v);
  }
  wrong_type("non-negative integer", *this);
}
double Json::as_double() const {
  if (const auto* v = std::get_if<double>(&value_)) return *v;
  if (const auto* v = std::get_if<std::int64_t>(&value_)) return static_cast<double>(*v);
  if (const auto* v = std::get_if<std::uint64_t>(&value_)) return static_cast<double>(*v);
  wrong_type("number", *this);
}
const std::string& Json::as_string() const {
  if (!is_string()) wrong_type("string", *this);
  return std::get<std::string>(value_);
}
const Json::Array& Json::as_array() const {
  if (!is_array()) wrong_type("array", *this);
  return std::get<Array>(value_);
}
const Json::Object& Json::as_object() const {
  if (!is_object()) wrong_type("object", *this);
  return std::get<Object>(value_);
}
Json::Array& Json::as_array() {
  if (!is_array()) wrong_type("array", *this);
  return std::get<Array>(value_);
}
Json::Object& Json::as_object() {
  if (!is_object()) wrong_type("object", *this);
  return std::get<Object>(value_);
}

const Json* Json::find(std::string_view key) const {
  for (const auto& [name, value] : as_object()) {
    if (name == key) return &value;
  }
  return nullptr;
}
const Json& Json::at(std::string_view key) const {
  const Json* found = find(key);
  if (found == nullptr) throw_error(ExitCode::kCorruptInput, "[json] key '{}' is missing", key);
  return *found;
}
Json& Json::set(std::string_view key, Json value) {
  for (auto& [name, old] : as_object()) {
    if (name == key) return old = std::move(value);
  }
  as_object().emplace_back(std::string(key), std::move(value));
  return as_object().back().second;
}
std::size_t Json::size() const {
  if (is_array()) return as_array().size();
  return as_object().size();
}

std::string Json::dump(int indent) const {
  std::string out;
  append(out, *this, indent, 0);
  return out;
}

Json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits) {
  Builder builder(where, limits);
  if (text.size() > limits.max_bytes) {
    builder.refuse(format("{} bytes, expected at most {}", text.size(), limits.max_bytes));
    return builder.take();
  }
  // nlohmann takes a NUL for the end of the input and would ignore what follows it.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos) {
    builder.refuse(format("byte {}: NUL is not JSON", nul));
    return builder.take();
  }
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace dsv
