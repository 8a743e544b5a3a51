// Values of configuration fields: from YAML nodes with exact types, to JSON, and their ranges.
#pragma once

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "config_yaml.h"
#include "dsv/base/error.h"
#include "dsv/base/json.h"
#include "dsv/base/nearest.h"
#include "dsv/data/data_config.h"

namespace dsv::train {

// A node that is not a value of the field's type; `below` is the path from the field down to it.
struct ValueError {
  YamlMark at;
  std::string below;
  std::string message;
};

// Bounds of a number, and of each element of a list. NaN and infinities are outside of every range.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false, high_open = false;

  constexpr Range at_most(double value) const { return {low, value, low_open, false}; }
  constexpr Range below(double value) const { return {low, value, low_open, true}; }
  bool holds(double value) const {
    return std::isfinite(value) && (low_open ? value > low : value >= low) &&
           (high_open ? value < high : value <= high);
  }
  // "0 … 1", "above 0 and at most 10", "any number".
  std::string text() const;
};
constexpr Range at_least(double value) {
  return {.low = value};
}
constexpr Range above(double value) {
  return {.low = value, .low_open = true};
}
constexpr Range between(double low, double high) {
  return {low, high};
}

// Names of an enumeration's values, declared in config_enums.h.
template <typename E>
struct EnumName {
  const char* name;
  E value;
};
template <typename E>
constexpr int kEnumNames = 0;

template <typename E>
std::vector<std::string> enum_names() {
  std::vector<std::string> names;
  for (const auto& entry : kEnumNames<E>) names.emplace_back(entry.name);
  return names;
}

// "expected a, b, got 'x'; did you mean b?"
std::string unknown_name(const std::vector<std::string>& names, const YamlNode& got);

// Overloads by type; throw ValueError.
void read_value(const YamlNode& node, bool& out);
void read_value(const YamlNode& node, std::int64_t& out);
void read_value(const YamlNode& node, std::uint64_t& out);
void read_value(const YamlNode& node, double& out);
void read_value(const YamlNode& node, float& out);
void read_value(const YamlNode& node, std::string& out);
// {HxW: {frames: {probability: p, batch: b}}} or {HxW: {frames: [p, b]}}, sorted by H, W, frames.
void read_value(const YamlNode& node, std::vector<data::Bucket>& out);

template <typename E>
requires std::is_enum_v<E>
void read_value(const YamlNode& node, E& out) {
  if (node.kind == YamlNode::Kind::kScalar) {
    for (const auto& entry : kEnumNames<E>) {
      if (node.text != entry.name) continue;
      out = entry.value;
      return;
    }
  }
  throw ValueError{node.at, "", unknown_name(enum_names<E>(), node)};
}

// Elements of a list, each under its index.
template <typename T>
void read_item(const YamlNode& list, std::size_t i, T& out) {
  try {
    read_value(list.items[i], out);
  } catch (ValueError& error) {
    error.below = format("[{}]{}", i, error.below);
    throw;
  }
}

template <typename T>
void read_value(const YamlNode& node, std::vector<T>& out) {
  if (node.kind != YamlNode::Kind::kSequence) {
    throw ValueError{node.at, "", "expected a list [a, b, …], got " + describe(node)};
  }
  out.assign(node.items.size(), T{});
  for (std::size_t i = 0; i < out.size(); ++i) read_item(node, i, out[i]);
}

template <std::size_t N>
void read_value(const YamlNode& node, std::array<std::int64_t, N>& out) {
  if (node.kind != YamlNode::Kind::kSequence || node.items.size() != N) {
    const std::string got = node.kind == YamlNode::Kind::kSequence
                                ? format("a list of {}", node.items.size())
                                : describe(node);
    throw ValueError{node.at, "", format("expected a list of {} integers, got {}", N, got)};
  }
  for (std::size_t i = 0; i < N; ++i) read_item(node, i, out[i]);
}

inline Json to_json(bool value) {
  return value;
}
inline Json to_json(std::int64_t value) {
  return value;
}
inline Json to_json(std::uint64_t value) {
  return value;
}
inline Json to_json(double value) {
  return value;
}
Json to_json(
    float value);  // the double nearest to the float's shortest decimal: 1e-6, not 9.99…e-7
inline Json to_json(const std::string& value) {
  return value;
}
Json to_json(const std::vector<data::Bucket>& buckets);

template <typename E>
requires std::is_enum_v<E> Json to_json(E value) {
  for (const auto& entry : kEnumNames<E>) {
    if (value == entry.value) return entry.name;
  }
  return format("({})", static_cast<int>(value));
}

template <typename List>
requires requires(const List& list) {
  list.begin();
}
Json to_json(const List& list) {
  Json out = Json::array();
  for (const auto& item : list) out.push_back(to_json(item));
  return out;
}

// The type in words, for documentation.
template <typename T>
std::string type_text() {
  if constexpr (std::is_same_v<T, bool>) {
    return "true or false";
  } else if constexpr (std::is_integral_v<T>) {
    return "integer";
  } else if constexpr (std::is_floating_point_v<T>) {
    return "number";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return "text";
  } else if constexpr (std::is_enum_v<T>) {
    return join_names(enum_names<T>());
  } else if constexpr (std::is_same_v<T, std::vector<data::Bucket>>) {
    return "mapping";
  } else if constexpr (std::is_same_v<T, std::vector<double>>) {
    return "list of numbers";
  } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    return "list of texts";
  } else {
    return format("list of {} integers", std::tuple_size_v<T>);
  }
}

}  // namespace dsv::train
