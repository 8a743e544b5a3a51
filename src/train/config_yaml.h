// A YAML document as a small tree with source positions. yaml-cpp's own tree keeps duplicate keys,
// drops positions of scalars in error messages, and expands aliases without limit; its event parser
// does not.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dsv::train {

struct YamlMark {
  std::int64_t line = 0;  // from 1; 0: not known
  std::int64_t column = 0;
};

struct YamlMember;

struct YamlNode {
  enum class Kind { kNull, kScalar, kSequence, kMapping };
  Kind kind = Kind::kNull;
  YamlMark at;
  std::string text;     // of a scalar
  bool quoted = false;  // "4" is text, 4 is a number
  std::vector<YamlNode> items;
  std::vector<YamlMember> members;  // unique keys
};

struct YamlMember {
  std::string key;
  YamlMark key_at;
  YamlNode value;
};

// "FILE:3:7", "FILE" without a position.
std::string to_string(const std::string& file, const YamlMark& at);

constexpr std::size_t kMaxConfigBytes = 128u << 10;

// Throws Error(kConfig) "FILE:LINE:COLUMN: …".
YamlNode parse_yaml(std::string_view text, const std::string& file);

// What a node is, for "got …": "a list", "nothing", "'text'" shortened and printable.
std::string describe(const YamlNode& node);
// Shortened, with control characters and bytes that are not UTF-8 escaped.
std::string printable(std::string_view text);
std::string quote(std::string_view text);  // the same in quotes

}  // namespace dsv::train
