#include "dsv/base/printable.h"

namespace dsv {
namespace {

// The byte at i, 0 beyond the end: no UTF-8 character goes on with 0.
unsigned byte_at(std::string_view text, std::size_t i) {
  return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
}

// C1 controls, U+0080 … U+009F, are C2 80 … C2 9F: some terminals obey them.
bool is_control(std::string_view text) {
  const unsigned first = byte_at(text, 0);
  return first < 0x20 || first == 0x7f || (first == 0xc2 && byte_at(text, 1) < 0xa0);
}

std::string escaped(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const unsigned byte = byte_at(bytes, i);
    out += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return out;
}

}  // namespace

std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return byte_at(text, i); };
  const auto in = [&](std::size_t i, unsigned low, unsigned high) {
    return byte(i) >= low && byte(i) <= high;
  };
  const auto tail = [&](std::size_t i) { return in(i, 0x80, 0xbf); };
  if (text.empty()) return 0;
  if (in(0, 0, 0x7f)) return 1;
  if (in(0, 0xc2, 0xdf)) return tail(1) ? 2 : 0;
  if (in(0, 0xe0, 0xef)) {
    // The second byte rules out overlong forms and surrogates.
    const unsigned low = byte(0) == 0xe0 ? 0xa0 : 0x80, high = byte(0) == 0xed ? 0x9f : 0xbf;
    return in(1, low, high) && tail(2) ? 3 : 0;
  }
  if (in(0, 0xf0, 0xf4)) {
    const unsigned low = byte(0) == 0xf0 ? 0x90 : 0x80, high = byte(0) == 0xf4 ? 0x8f : 0xbf;
    return in(1, low, high) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

std::string printable(std::string_view text, std::size_t max_bytes) {
  constexpr std::string_view kCut = "…";
  std::string out;
  std::size_t size_if_cut = 0;  // where "…" still fits
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const std::string_view character = text.substr(0, length == 0 ? 1 : length);
    out += length == 0 || is_control(character) ? escaped(character) : std::string(character);
    if (out.size() > max_bytes) {
      out.resize(size_if_cut);
      return max_bytes < kCut.size() ? std::string() : out + std::string(kCut);
    }
    if (out.size() + kCut.size() <= max_bytes) size_if_cut = out.size();
    text.remove_prefix(character.size());
  }
  return out;
}

}  // namespace dsv
