#include "dsv/base/printable.h"

#include "dsv/base/error.h"
#include "dsv/base/json.h"
#include "support/catch.h"

namespace dsv {
namespace {

// By the table of the Unicode standard (3-7), the other way round: from the code point to its
// bytes.
std::string utf8_of(std::uint32_t c) {
  const auto byte = [](std::uint32_t b) { return static_cast<char>(b); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xc0 | c >> 6), byte(0x80 | (c & 63))};
  if (c < 0x10000) return {byte(0xe0 | c >> 12), byte(0x80 | (c >> 6 & 63)), byte(0x80 | (c & 63))};
  return {byte(0xf0 | c >> 18), byte(0x80 | (c >> 12 & 63)), byte(0x80 | (c >> 6 & 63)),
          byte(0x80 | (c & 63))};
}

TEST_CASE("utf8_length accepts every code point and nothing else", "[base]") {
  std::size_t wrong = 0;
  for (std::uint32_t c = 0; c < 0x120000; ++c) {
    const std::string bytes = utf8_of(c);
    const bool is_character = c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
    wrong += utf8_length(bytes) != (is_character ? bytes.size() : 0);
    wrong += utf8_length(bytes + "x") != (is_character ? bytes.size() : 0);
    wrong +=
        bytes.size() > 1 && utf8_length(std::string_view(bytes).substr(0, bytes.size() - 1)) != 0;
    wrong += bytes.size() > 1 && utf8_length(std::string_view(bytes).substr(1)) != 0;
  }
  CHECK(wrong == 0);
  // Two bytes of every kind: only C2 … DF and a tail are a character.
  for (unsigned a = 0x80; a < 256; ++a) {
    for (unsigned b = 0; b < 256; ++b) {
      const std::string bytes{static_cast<char>(a), static_cast<char>(b)};
      const bool is_character = a >= 0xc2 && a <= 0xdf && b >= 0x80 && b <= 0xbf;
      wrong += utf8_length(bytes) != (is_character ? 2u : 0u);
    }
  }
  CHECK(wrong == 0);
  CHECK(utf8_length("") == 0);
}

TEST_CASE("printable text holds no control characters and no more than it may", "[base]") {
  CHECK(printable("plain ü € 😀") == "plain ü € 😀");
  CHECK(printable("") == "");
  CHECK(printable(std::string("a\0\n\x1b[2J\x7f", 8)) == "a\\x00\\x0a\\x1b[2J\\x7f");
  CHECK(printable("\xc2\x9b"
                  "2J \xc2\xa0") == "\\xc2\\x9b2J \xc2\xa0");
  CHECK(printable("\xff\xc0\xaf \xe2\x82") == "\\xff\\xc0\\xaf \\xe2\\x82");
  CHECK(printable(std::string(80, 'x')) == std::string(80, 'x'));
  CHECK(printable(std::string(81, 'x')) == std::string(77, 'x') + "…");
  CHECK(printable("aaaa€€", 9) == "aaaa…");
  CHECK(printable("aaa€€", 9) == "aaa€€");
  CHECK(printable("\x1b\x1b\x1b", 12) == "\\x1b\\x1b\\x1b");
  CHECK(printable("\x1b\x1b\x1b", 11) == "\\x1b\\x1b…");
  CHECK(printable("abc", 2) == "");
  CHECK(printable("abcd", 3) == "…");
}

std::string json_message(std::string_view text) {
  try {
    parse_json(text, "F");
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST_CASE("messages about JSON are short and printable", "[base]") {
  const std::string many(100'000, 'n');
  for (const std::string& text :
       {"\"" + many, many, std::string(100'000, '7'), "{\"" + many + "\":1,\"" + many + "\":1}",
        std::string("\"\xff\""), std::string("\"\x7f\xc2\x9b"), std::string("[\"\x1b[2J\"]"),
        std::string(R"({"\u001b[2J\u009b\u007f": 1, "\u001b[2J\u009b\u007f": 1})")}) {
    const std::string message = json_message(text);
    INFO(message);
    CHECK(message.size() < 400);
    CHECK(printable(message, 1000) == message);
    CHECK_THAT(message, Contains("[json] F: "));
    CHECK_THAT(message, !Contains("json.exception"));
  }
  CHECK_THAT(json_message(R"({"\u001b[2J": 1, "\u001b[2J": 1})"),
             Contains("duplicate name '\\x1b[2J'"));
  CHECK_THAT(json_message("[1,"), Contains("byte 4: line 1, column 4: syntax error"));
}

}  // namespace
}  // namespace dsv
