// Pieces of JSON text for corpora.
#pragma once

#include <string>
#include <string_view>

namespace dsv::fuzz {

inline std::string repeat(std::string_view piece, std::size_t times) {
  std::string out;
  out.reserve(piece.size() * times);
  for (std::size_t i = 0; i < times; ++i) out += piece;
  return out;
}

// PIECE, PIECE, … joined by commas, `of` making piece i.
template <typename Of>
std::string list_of(std::size_t size, const Of& of) {
  std::string out;
  for (std::size_t i = 0; i < size; ++i) out += (i == 0 ? "" : ",") + std::string(of(i));
  return out;
}

// The text with its first `from` replaced; a corpus whose example has changed must not go on
// silently testing nothing.
inline std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const auto at = text.find(from);
  if (at == text.npos) {
    throw std::logic_error("the example does not hold: " + std::string(from));
  }
  return text.replace(at, from.size(), to);
}

constexpr const char* kJsonWordList[] = {
    "{",    "}",     "[",       "]",       ",",           ":",           "\"\"",         "null",
    "true", "false", "\"a\"",   "\"a\":1", "\"\\u0000\"", "\"\\ud800\"", "\"\\n\"",      "-0.0",
    "1e5",  "[[]]",  "{}",      "[]",      "\\",          "\"",          "\xef\xbb\xbf", "\xc2\x9b",
    "/**/", "//",    "\"../a\""};

}  // namespace dsv::fuzz
