// Builds the table of fields: one statement per field gives its path, place, drift, help, and
// rules.
#pragma once

#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "config_fields.h"
#include "config_value.h"

namespace dsv::train {

// A field's path and its place in Config, from one spelling.
#define DSV_FIELD(member)         \
#member, [](auto& c) -> auto& { \
    return c.member;              \
  }

// What is wrong with a value beyond its type; "" when nothing is.
template <typename T>
std::string outside(const Range& range, const T& value) {
  if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
    if (range.holds(static_cast<double>(value))) return "";
    return format("expected {}, got {}", range.text(), value);
  } else {
    for (const auto& item : value) {
      const std::string problem = outside(range, item);
      if (!problem.empty()) return problem;
    }
    return "";
  }
}

template <typename Access>
using ValueOf = std::remove_cvref_t<std::invoke_result_t<Access, Config&>>;

class Table {
 public:
  template <typename Access>
  Table& field(const char* path, Access access, Drift drift, const char* help) {
    Field made;
    made.path = path;
    made.type = type_text<ValueOf<Access>>();
    made.help = help;
    made.drift = drift;
    made.get = [access](const Config& c) { return to_json(access(c)); };
    made.set = [access](const YamlNode& node, Config& c) { read_value(node, access(c)); };
    fields_.push_back(std::move(made));
    return *this;
  }
  template <typename Access>
  Table& field(const char* path, Access access, Drift drift, const char* help, const Range& range) {
    field(path, access, drift, help);
    last().range = range.text();
    last().range_problem = [access, range](const Config& c) { return outside(range, access(c)); };
    return *this;
  }
  // A rule for the last field beyond ranges, said in words in `range`.
  Table& rule(const char* range, std::function<std::string(const Config&)> problem) {
    last().range = range;
    last().range_problem = std::move(problem);
    return *this;
  }
  Table& type(std::string words) {
    last().type = std::move(words);
    return *this;
  }
  // The last field matters only then; set otherwise, it is an error.
  Table& used_when(const char* condition, std::function<bool(const Config&)> is_used) {
    last().used_when = condition;
    last().is_used = std::move(is_used);
    return *this;
  }
  std::vector<Field> take() { return std::move(fields_); }

 private:
  Field& last() { return fields_.back(); }
  std::vector<Field> fields_;
};

// The sections attention and sparsity.
void add_attention(Table& table);

}  // namespace dsv::train
