#include "dsv/data/text.h"

#include <algorithm>

#include "dsv/base/philox.h"
#include "dsv/data/host_tensor.h"

namespace dsv::data {
namespace {

bool is_word_byte(char c) {
  const auto u = static_cast<unsigned char>(c);
  return (u >= '0' && u <= '9') || (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z') || u >= 0x80;
}

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

// Bytes of the valid UTF-8 character at the beginning of `text`, or 0: Unicode 15, table 3-7.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto tail = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned b = byte(0);
  if (b < 0x80) return 1;
  if (b >= 0xC2 && b <= 0xDF) return tail(1) ? 2 : 0;
  if (b >= 0xE0 && b <= 0xEF) {
    const unsigned low = b == 0xE0 ? 0xA0 : 0x80, high = b == 0xED ? 0x9F : 0xBF;
    return byte(1) >= low && byte(1) <= high && tail(2) ? 3 : 0;
  }
  if (b >= 0xF0 && b <= 0xF4) {
    const unsigned low = b == 0xF0 ? 0x90 : 0x80, high = b == 0xF4 ? 0x8F : 0xBF;
    return byte(1) >= low && byte(1) <= high && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    const bool inside =
        i < text.size() &&
        (is_word_byte(text[i]) ||
         (text[i] == '\'' && !word.empty() && i + 1 < text.size() && is_word_byte(text[i + 1])));
    if (inside) {
      word += lower(text[i]);
    } else if (!word.empty()) {
      words.push_back(std::move(word));
      word.clear();
    }
  }
  return words;
}

Tensor hashed_text(std::string_view text, const TextSettings& settings) {
  DSV_CHECK(settings.dim > 0 && settings.max_len > 0,
            "[text] expected dim and max_len > 0, got {}, {}", settings.dim, settings.max_len);
  std::vector<std::string> words = split_words(text);
  if (static_cast<std::int64_t>(words.size()) > settings.max_len) {
    words.resize(static_cast<std::size_t>(settings.max_len));
  }
  const auto rows = std::max<std::int64_t>(1, static_cast<std::int64_t>(words.size()));
  Tensor out = host_tensor({rows, settings.dim});
  if (words.empty()) std::fill_n(out.f32(), settings.dim, 0.0f);
  for (std::size_t row = 0; row < words.size(); ++row) {
    float* to = out.f32() + static_cast<std::int64_t>(row) * settings.dim;
    const PhiloxStream stream(
        {.purpose = RngPurpose::kText, .sample = fnv1a(words[row].data(), words[row].size())});
    for (std::int64_t column = 0; column < settings.dim; column += 4) {
      const auto normals = philox_normal4(stream.block(static_cast<std::uint64_t>(column / 4)));
      for (std::int64_t i = 0; i < std::min<std::int64_t>(4, settings.dim - column); ++i) {
        to[column + i] = static_cast<float>(normals[static_cast<std::size_t>(i)]);
      }
    }
  }
  return out;
}

std::string clean_text(std::string_view text, std::size_t max_bytes) {
  std::string out;
  bool space = false;
  while (!text.empty()) {
    const std::size_t n = utf8_length(text);
    const auto first = static_cast<unsigned char>(text[0]);
    std::string_view piece = n == 0 ? std::string_view("\xEF\xBF\xBD") : text.substr(0, n);
    text.remove_prefix(n == 0 ? 1 : n);
    // C1 controls U+0080…U+009F are C2 80…C2 9F: some terminals obey them.
    const bool control =
        first < 0x20 || first == 0x7F ||
        (piece.size() == 2 && first == 0xC2 && static_cast<unsigned char>(piece[1]) < 0xA0);
    if (first == ' ' || control) {
      space = true;
      continue;
    }
    const std::size_t needed = piece.size() + (space && !out.empty() ? 1 : 0);
    if (out.size() + needed > max_bytes) break;
    if (space && !out.empty()) out += ' ';
    space = false;
    out += piece;
  }
  return out;
}

std::string printable(std::string_view name) {
  return clean_text(name, 80);
}

}  // namespace dsv::data
