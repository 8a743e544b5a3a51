// base/json: text to value.
#include <memory>

#include "dsv/base/json.h"
#include "json_text.h"
#include "target.h"

namespace dsv::fuzz {
namespace {

// What is accepted must be written and read back as the same value, compact and indented.
Check parse(std::string_view input) {
  const auto value = std::make_shared<Json>(parse_json(input, "F"));
  return [value] {
    for (const int indent : {-1, 1}) {
      const std::string text = value->dump(indent);
      promise(parse_json(text, "F") == *value, "its text reads back as another value: {}", text);
      promise(parse_json(text, "F").dump(indent) == text, "its text does not stay: {}", text);
    }
  };
}

std::vector<Case> cases() {
  const std::string bom = "\xef\xbb\xbf";
  return {
      accepted("object", R"({"a": [1, -2, 3.5, "x"], "b": {"c": null, "d": true}})"),
      accepted("scalar", "-17"),
      accepted("64 levels", repeat("[", 64) + repeat("]", 64)),
      accepted("smallest double", "5e-324"),
      accepted("below the smallest double", "1e-400"),
      accepted("largest unsigned", "[18446744073709551615, -9223372036854775808]"),
      accepted("escaped NUL and a pair of surrogates", R"(["\u0000", "\ud83d\ude00", "\/"])"),
      accepted("names that differ in case", R"({"a": 1, "A": 2, "": 3})"),
      accepted("byte order mark", bom + "{}"),
      accepted("50,000 empty lists", "[" + list_of(50'000, [](int) { return "[]"; }) + "]"),
      accepted("100,000 digits", "[" + list_of(100'000, [](int) { return "1"; }) + "]"),
      accepted(
          "20,000 names",
          "{" + list_of(20'000, [](std::size_t i) { return "\"" + std::to_string(i) + "\":0"; }) +
              "}"),
      {"empty", "", {"[json] F: "}},
      {"white space", " \n\t", {"[json] F: "}},
      {"NUL", std::string("\0", 1), {"byte 0: NUL is not JSON"}},
      {"NUL after the value", std::string("{}\0", 3), {"byte 2: NUL"}},
      {"NUL in a text", std::string("\"a\0b\"", 5), {"byte 2: NUL"}},
      {"two values", "{} {}", {"[json] F: byte"}},
      {"open object", "{\"a\": 1", {"byte"}},
      {"open text", "\"abc", {"byte"}},
      {"name alone", "{\"a\"}", {"byte"}},
      {"name of a number", "{1: 2}", {"byte"}},
      {"bare name", "{a: 1}", {"byte"}},
      {"single quotes", "{'a': 1}", {"byte"}},
      {"comma at the end of a list", "[1,]", {"byte"}},
      {"comma at the end of an object", "{\"a\":1,}", {"byte"}},
      {"comment", "/* a */ {}", {"byte"}},
      {"wrong bracket", "[1}", {"byte"}},
      {"leading zero", "01", {"byte"}},
      {"leading plus", "+1", {"byte"}},
      {"no digit after the point", "1.", {"byte"}},
      {"no digit before the point", ".5", {"byte"}},
      {"hexadecimal", "0x10", {"byte"}},
      {"NaN", "NaN", {"byte"}},
      {"Infinity", "-Infinity", {"byte"}},
      {"number too large", "[1e309]", {"number overflow", "1e309"}},
      {"number much too large", repeat("9", 400), {"number overflow"}},
      {"capital true", "True", {"byte"}},
      {"line break in a text", "\"a\nb\"", {"byte"}},
      {"escape byte in a text", "\"\x1b[31m\"", {"byte"}},
      {"unknown escape", R"("\x41")", {"byte"}},
      {"short escape", R"("\u12")", {"byte"}},
      {"lone high surrogate", R"("\ud800")", {"byte"}},
      {"lone low surrogate", R"("\udc00")", {"byte"}},
      {"byte that is not UTF-8", "\"\xff\"", {"byte"}},
      {"overlong slash", "\"\xc0\xaf\"", {"byte"}},
      {"encoded surrogate", "\"\xed\xa0\x80\"", {"byte"}},
      {"beyond Unicode", "\"\xf4\x90\x80\x80\"", {"byte"}},
      {"cut character", "\"\xe2\x82", {"byte"}},
      {"UTF-16", std::string("{\0}\0", 4), {"NUL"}},
      {"duplicate name", R"({"a": 1, "a": 1})", {"duplicate name 'a'"}},
      {"duplicate name, spelt otherwise", R"({"a": 1, "\u0061": 1})", {"duplicate name 'a'"}},
      {"duplicate name with an escape sequence",
       R"({"\u001b[2J": 1, "\u001b[2J": 1})",
       {"duplicate name"}},
      {"duplicate name, very long",
       "{\"" + repeat("n", 100'000) + "\":1,\"" + repeat("n", 100'000) + "\":1}",
       {"duplicate name"}},
      {"65 levels", repeat("[", 65) + repeat("]", 65), {"nested deeper than 64 levels"}},
      {"a million open lists", repeat("[", 1'000'000), {"nested deeper than 64 levels"}},
      {"200,000 open objects", repeat("{\"a\":", 200'000), {"nested deeper than 64 levels"}},
      {"a million bytes of open text", "\"" + repeat("x", 1'000'000), {"byte"}},
      {"a million bytes of a bad word", repeat("x", 1'000'000), {"byte"}},
      {"a million digits and a letter", repeat("7", 1'000'000) + "x", {"number overflow"}},
  };
}

std::vector<std::string> seeds() {
  return {
      R"({"name": "x", "list": [1, 2.5, -3e7, "\u00e9\n", true, null, {"k": []}], "n": {"m": {}}})",
      R"([[[1,[2,[3]]]],{"a":{"b":{"c":18446744073709551615}}},"ü€😀"])"};
}

}  // namespace

// Memory: a value is 40 bytes and two of text ("1,"), while its list grows 120; a name costs 72 in
// its object, three times that while it grows, and a node of 72 in the set of names.
Target json_target() {
  return {.name = "json",
          .parse = parse,
          .codes = {ExitCode::kCorruptInput},
          .cases = cases,
          .seeds = seeds,
          .words = {std::begin(kJsonWordList), std::end(kJsonWordList)},
          .repair = {},
          .bytes_per_byte = 64,
          .fixed_bytes = 16 << 10,
          .min_reasons = 20};
}

}  // namespace dsv::fuzz
