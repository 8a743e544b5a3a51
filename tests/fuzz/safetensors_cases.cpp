// What the reader of safetensors must accept and refuse.
#include <filesystem>
#include <fstream>
#include <sstream>

#include "json_text.h"
#include "safetensors_file.h"

namespace dsv::fuzz {
namespace {

std::vector<Case> good_cases() {
  const std::string f32x2 = entry("F32", "2", "0,8");
  std::vector<Case> cases = {
      accepted("one tensor", one(f32x2)),
      accepted("nothing", file_of("{}")),
      accepted("padded header", file_of("{}      ")),
      accepted("scalar", one(entry("F64", "", "0,8"))),
      accepted("no elements", one(entry("F32", "3,0", "0,0"), 0)),
      accepted("no elements, huge other dims",
               one(entry("F32", "0,1099511627776,1099511627776", "0,0"), 0)),
      accepted("six dims", one(entry("U8", "1,2,1,2,1,2", "0,8"))),
      accepted("seven dims", one(entry("U8", "1,1,1,1,1,1,1", "0,1"), 1)),
      accepted("10,000 dims", one(entry("U8", list_of(10'000, [](int) { return "1"; }), "0,1"), 1)),
      accepted("names that look like paths", file_of("{\"../../etc/passwd\":" + f32x2 + "}", 8)),
      accepted("terminal escape in a name", file_of("{\"\\u001b[31m\":" + f32x2 + "}", 8)),
      accepted("empty name", file_of("{\"\":" + f32x2 + "}", 8)),
      accepted("types of four and six bits",
               file_of("{\"a\":" + entry("F4", "2,3", "0,3") +
                           ",\"b\":" + entry("F6_E2M3", "4", "3,6") + "}",
                       6)),
      accepted(
          "any order, empty ones between",
          file_of("{\"c\":" + entry("I16", "2", "4,8") + ",\"e\":" + entry("F32", "0", "4,4") +
                      ",\"a\":" + entry("I32", "1", "0,4") + ",\"__metadata__\":{\"k\":\"v\"}}",
                  8)),
      accepted("10,000 tensors",
               file_of("{" +
                           list_of(10'000,
                                   [](std::size_t i) {
                                     const std::string at = std::to_string(i);
                                     return "\"" + at + "\":" +
                                            entry("U8", "1", at + "," + std::to_string(i + 1));
                                   }) +
                           "}",
                       10'000)),
      accepted("10,000 keys of metadata",
               file_of("{\"__metadata__\":{" +
                       list_of(10'000,
                               [](std::size_t i) { return "\"" + std::to_string(i) + "\":\"\""; }) +
                       "}}")),
  };
  // What other tests read must be readable under the sanitizers, too.
  for (const auto& item : std::filesystem::recursive_directory_iterator(
           std::string(DSV_SOURCE_DIR) + "/tests/golden/fixtures")) {
    if (item.path().extension() != ".safetensors") continue;
    std::ifstream in(item.path(), std::ios::binary);
    std::ostringstream bytes;
    bytes << in.rdbuf();
    cases.push_back(accepted("fixture " + item.path().string(), bytes.str()));
  }
  return cases;
}

// The length of the header.
std::vector<Case> length_cases() {
  const std::string good = "{\"a\":" + entry("F32", "2", "0,8") + "}";
  const auto with_length = [&](std::uint64_t n) { return length_bytes(n) + good + "pppppppp"; };
  return {
      {"empty file", "", {"F: 0 bytes are too few for the 8-byte header length"}},
      {"one byte", "\x08", {"1 bytes are too few"}},
      {"seven bytes", std::string(7, '\1'), {"7 bytes are too few"}},
      {"length alone",
       length_bytes(2),
       {"header length 2 is beyond the end of the file of 8 bytes"}},
      {"length 0", with_length(0), {"the header length is 0"}},
      {"length 1", with_length(1), {"header: byte"}},
      {"length one too small", with_length(good.size() - 1), {"header: byte"}},
      {"length one too large", with_length(good.size() + 1), {"header: byte"}},
      {"length into the payload", with_length(good.size() + 8), {"header: byte"}},
      {"length one beyond the file", with_length(good.size() + 9), {"beyond the end of the file"}},
      {"length 100 MB", with_length(100'000'000), {"beyond the end of the file"}},
      {"length beyond 100 MB", with_length(100'000'001), {"beyond the limit of 100 MB"}},
      {"length 2^31", with_length(1ull << 31), {"2147483648 is beyond the limit"}},
      {"length 2^32 + header", with_length((1ull << 32) + good.size()), {"beyond the limit"}},
      {"length 2^63 - 8",
       with_length((1ull << 63) - 8),
       {"9223372036854775800 is beyond the limit"}},
      {"length 2^63", with_length(1ull << 63), {"9223372036854775808 is beyond the limit"}},
      {"length 2^64 - 8", with_length(~7ull), {"beyond the limit"}},
      {"length 2^64 - 1", with_length(~0ull), {"18446744073709551615 is beyond the limit"}},
      {"length in big-endian order", std::string("\0\0\0\0\0\0\0\2{}", 10), {"beyond the limit"}},
  };
}

// The header as JSON.
std::vector<Case> text_cases() {
  const std::string f32x2 = entry("F32", "2", "0,8");
  return {
      {"not JSON", file_of("{nonsense}"), {"F: header: byte"}},
      {"a list", file_of("[]"), {"does not begin with '{'"}},
      {"a space first", file_of(" {}"), {"does not begin with '{'"}},
      {"byte order mark", file_of("\xef\xbb\xbf{}"), {"does not begin with '{'"}},
      {"zip file", file_of("PK\3\4"), {"does not begin with '{'"}},
      {"unfinished", file_of("{\"a\":{"), {"header: byte"}},
      {"text after the header", file_of("{}x"), {"header: byte"}},
      {"NUL after the header", file_of(std::string("{}\0", 3)), {"header: byte 2: NUL"}},
      {"two headers", file_of("{}{}"), {"header: byte"}},
      {"bad UTF-8 in a name", file_of("{\"\xff\":" + f32x2 + "}", 8), {"header: byte"}},
      {"overlong UTF-8 in a name", file_of("{\"\xc0\x80\":" + f32x2 + "}", 8), {"header: byte"}},
      {"surrogate in a name", file_of("{\"\xed\xa0\x80\":" + f32x2 + "}", 8), {"header: byte"}},
      {"deep lists", one(repeat("[", 200) + repeat("]", 200), 0), {"nested deeper than 3 levels"}},
      {"deep objects", file_of(repeat("{\"a\":", 100'000)), {"nested deeper than 3 levels"}},
      {"deep metadata", file_of("{\"__metadata__\":{\"a\":{\"b\":{}}}}"), {"nested deeper"}},
      {"million open lists", one(repeat("[", 1'000'000), 0), {"nested deeper"}},
      {"tensor twice",
       file_of("{\"a\":" + f32x2 + ",\"a\":" + f32x2 + "}", 8),
       {"duplicate name 'a'"}},
      {"tensor twice, spelt otherwise",
       file_of("{\"a\":" + f32x2 + ",\"\\u0061\":" + f32x2 + "}", 8),
       {"duplicate name 'a'"}},
      {"metadata twice", file_of("{\"__metadata__\":{},\"__metadata__\":{}}"), {"duplicate name"}},
      {"key of metadata twice",
       file_of(R"({"__metadata__":{"a":"1","a":"2"}})"),
       {"duplicate name"}},
      {"key twice",
       one(R"({"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})"),
       {"duplicate name 'dtype'"}},
      {"number too large", one(entry("F32", "1e999", "0,8")), {"number overflow"}},
      {"metadata a list", file_of("{\"__metadata__\":[]}"), {"expected an object '__metadata__'"}},
      {"metadata a tensor", file_of("{\"__metadata__\":" + f32x2 + "}", 8), {"expected strings"}},
      {"metadata of numbers", file_of("{\"__metadata__\":{\"k\":1}}"), {"expected strings", "'k'"}},
      {"name of a million bytes",
       file_of("{\"" + repeat("n", 1'000'000) + "\":3}"),
       {"expected an object"}},
      {"dtype of a million bytes",
       one(entry(repeat("F", 1'000'000), "2", "0,8")),
       {"unknown dtype"}},
      {"escapes in an unknown key", one(R"({"\u001b[2J\u009b":1})"), {"unknown key '"}},
      {"100,000 unknown keys",
       one("{" + list_of(100'000, [](std::size_t i) { return "\"" + std::to_string(i) + "\":0"; }) +
           "}"),
       {"unknown key '0'"}},
  };
}

// Entries of tensors.
std::vector<Case> entry_cases() {
  return {
      {"tensor a number", one("3"), {"tensor 'a': expected an object, got a integer"}},
      {"tensor null", one("null"), {"expected an object, got a null"}},
      {"tensor empty", one("{}"), {"expected a string 'dtype'"}},
      {"no dtype", one(R"({"shape":[2],"data_offsets":[0,8]})"), {"expected a string 'dtype'"}},
      {"dtype a number",
       one(R"({"dtype":32,"shape":[2],"data_offsets":[0,8]})"),
       {"expected a string 'dtype'"}},
      {"unknown dtype", one(entry("F33", "2", "0,8")), {"unknown dtype 'F33'"}},
      {"empty dtype", one(entry("", "2", "0,8")), {"unknown dtype ''"}},
      {"dtype in lower case", one(entry("f32", "2", "0,8")), {"unknown dtype 'f32'"}},
      {"dtype with a NUL", one(entry("F32\\u0000", "2", "0,8")), {"unknown dtype 'F32"}},
      {"unknown key",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"strides":[1]})"),
       {"unknown key 'strides'"}},
      {"no shape", one(R"({"dtype":"F32","data_offsets":[0,8]})"), {"expected an array 'shape'"}},
      {"shape a number",
       one(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"),
       {"expected an array 'shape'"}},
      {"shape an object",
       one(R"({"dtype":"F32","shape":{},"data_offsets":[0,8]})"),
       {"expected an array 'shape'"}},
      {"nested shape", one(entry("F32", "[2]", "0,8")), {"nested deeper than 3 levels"}},
      {"dim a text",
       one(entry("F32", "\"2\"", "0,8")),
       {"expected integers in 'shape', got a string"}},
      {"dim null", one(entry("F32", "null", "0,8")), {"expected integers in 'shape'"}},
      {"dim a fraction", one(entry("F32", "2.0", "0,8")), {"expected integers in 'shape'"}},
      {"dim negative", one(entry("F32", "-2", "0,8")), {"negative value -2 in 'shape'"}},
      {"two negative dims", one(entry("F32", "-1,-2", "0,8")), {"negative value -1 in 'shape'"}},
      {"dim -2^63",
       one(entry("F32", "-9223372036854775808", "0,8")),
       {"negative value -9223372036854775808"}},
      {"dim 2^63 - 1", one(entry("F32", "9223372036854775807", "0,8")), {"shape × F32 overflows"}},
      {"dim 2^63", one(entry("F32", "9223372036854775808", "0,8")), {"does not fit in 63 bits"}},
      {"dim 2^64 - 1",
       one(entry("F32", "18446744073709551615", "0,8")),
       {"does not fit in 63 bits"}},
      {"dim 2^64", one(entry("F32", "18446744073709551616", "0,8")), {"got a number"}},
      {"product of dims wraps to 2",
       one(entry("F32", "4294967296,4294967296,2", "0,8")),
       {"overflows"}},
      {"product of dims wraps to 0",
       one(entry("F32", "4294967296,4294967296", "0,0"), 0),
       {"overflows"}},
      {"product of bits wraps to 0",
       one(entry("F64", "288230376151711744", "0,0"), 0),
       {"overflows"}},
      {"overflow before a zero",
       one(entry("F32", "4294967296,4294967296,0", "0,0"), 0),
       {"overflows"}},
      {"half a byte", one(entry("F4", "3", "0,1"), 1), {"not a whole number of bytes"}},
      {"four of six bits and one",
       one(entry("F6_E3M2", "5", "0,4"), 4),
       {"not a whole number of bytes"}},
  };
}

// Where tensors lie.
std::vector<Case> offset_cases() {
  const std::string f32x2 = entry("F32", "2", "0,8");
  const auto two = [&](const std::string& second, std::size_t payload_bytes) {
    return file_of("{\"a\":" + f32x2 + ",\"b\":" + second + "}", payload_bytes);
  };
  return {
      {"no offsets", one(R"({"dtype":"F32","shape":[2]})"), {"expected two 'data_offsets'"}},
      {"offsets a number",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":8})"),
       {"expected two 'data_offsets'"}},
      {"one offset", one(entry("F32", "2", "8")), {"expected two 'data_offsets'"}},
      {"three offsets", one(entry("F32", "2", "0,8,8")), {"expected two 'data_offsets'"}},
      {"offset a text", one(entry("F32", "2", "\"0\",8")), {"expected integers in 'data_offsets'"}},
      {"offset a fraction",
       one(entry("F32", "2", "0,8.0")),
       {"expected integers in 'data_offsets'"}},
      {"offset negative", one(entry("F32", "2", "-8,0")), {"negative value -8 in 'data_offsets'"}},
      {"offset into the header", one(entry("F32", "2", "-4,4")), {"negative value -4"}},
      {"offsets reversed", one(entry("F32", "2", "8,0")), {"data_offsets [8, 0] are reversed"}},
      {"offset 2^63", one(entry("F32", "2", "0,9223372036854775808")), {"does not fit in 63 bits"}},
      {"offsets near 2^63",
       one(entry("U8", "1", "9223372036854775806,9223372036854775807")),
       {"beyond the payload of 8 bytes"}},
      {"offsets that wrap to 8",
       one(entry("F32", "2", "18446744073709551608,8")),
       {"does not fit in 63 bits"}},
      {"one byte beyond", one(f32x2, 7), {"beyond the payload of 7 bytes"}},
      {"no payload", one(f32x2, 0), {"beyond the payload of 0 bytes"}},
      {"payload one byte longer", one(f32x2, 9), {"1 trailing bytes after the last tensor"}},
      {"payload without tensors", file_of("{}", 3), {"3 trailing bytes"}},
      {"shape smaller than offsets", one(entry("F32", "1", "0,8")), {"needs 4 bytes", "hold 8"}},
      {"shape larger than offsets", one(entry("F32", "3", "0,8")), {"needs 12 bytes", "hold 8"}},
      {"elements without bytes", one(entry("F32", "2", "0,0"), 0), {"needs 8 bytes", "hold 0"}},
      {"bytes without elements", one(entry("F32", "0", "0,8")), {"needs 0 bytes", "hold 8"}},
      {"hole at the beginning",
       one(entry("F32", "1", "4,8")),
       {"hole of 4 bytes before tensor 'a'"}},
      {"hole between", two(entry("F32", "1", "12,16"), 16), {"hole of 4 bytes before tensor 'b'"}},
      {"overlap of one byte", two(entry("U8", "9", "7,16"), 16), {"overlaps", "by 1 bytes"}},
      {"same bytes twice", two(f32x2, 8), {"overlaps the tensor before it by 8 bytes"}},
      {"inside another", two(entry("F32", "1", "4,8"), 8), {"overlaps"}},
      {"nothing inside another", two(entry("F32", "0", "4,4"), 8), {"overlaps"}},
      {"nothing beyond the end", two(entry("F32", "0", "9,9"), 8), {"beyond the payload"}},
      {"1,000 tensors on the same bytes",
       file_of(
           "{" +
               list_of(1'000,
                       [&](std::size_t i) { return "\"" + std::to_string(i) + "\":" + f32x2; }) +
               "}",
           8),
       {"overlaps"}},
  };
}

}  // namespace

std::vector<Case> safetensors_cases() {
  std::vector<Case> all;
  for (const auto& part :
       {good_cases(), length_cases(), text_cases(), entry_cases(), offset_cases()}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace dsv::fuzz
