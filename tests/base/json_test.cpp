#include "dsv/base/json.h"

#include <cmath>
#include <limits>

#include "support/catch.h"

using dsv::Json;
using dsv::parse_json;

TEST_CASE("json: values survive a round trip", "[json]") {
  Json j = Json::object();
  j.set("int", 42);
  j.set("big", std::uint64_t{18446744073709551615ull});
  j.set("neg", std::int64_t{-7});
  j.set("pi", 3.141592653589793);
  j.set("whole", 2.0);
  j.set("text", "a\"b\\\n\x01ü");
  j.set("list", Json(Json::Array{1, 2, 3}));
  j.set("none", nullptr);
  j.set("yes", true);
  for (const int indent : {-1, 2}) CHECK(parse_json(j.dump(indent), "test") == j);
  CHECK(j.at("pi").as_double() == 3.141592653589793);
  CHECK(j.at("big").as_uint() == 18446744073709551615ull);
}

TEST_CASE("json: doubles print shortest and read back to the same bits", "[json]") {
  for (const double v : {0.1, 1e300, 5e-324, -0.0, 1.0 / 3.0, 123456789.125}) {
    const double back = parse_json(Json(v).dump(), "test").as_double();
    CHECK(back == v);
    CHECK(std::signbit(back) == std::signbit(v));
  }
  CHECK(Json(std::numeric_limits<double>::quiet_NaN()).dump() == "\"NaN\"");
}

TEST_CASE("json: malformed text is refused with a place and a reason", "[json]") {
  struct Case {
    const char* text;
    const char* reason;
  };
  const std::string deep(100, '[');
  const Case cases[] = {
      {"", "test"},          {"{", "test"},           {"{} x", "test"},
      {"[1,]", "test"},      {"{\"a\":1,\"a\":2}", "duplicate name 'a'"},
      {"nul", "test"},       {"\"\xff\"", "test"},    {"1e999", "test"},
      {deep.c_str(), "nested deeper"},                {"{\"a\" 1}", "test"}};
  for (const Case& c : cases) {
    INFO(c.text);
    try {
      parse_json(c.text, "test");
      FAIL("accepted");
    } catch (const dsv::Error& e) {
      CHECK(e.code() == dsv::ExitCode::kCorruptInput);
      CHECK_THAT(e.what(), Contains(c.reason));
    }
  }
  // A NUL must not end the text early.
  CHECK_THROWS_WITH(parse_json(std::string_view("{}\0junk", 7), "test"), Contains("NUL is not JSON"));
}

TEST_CASE("json: typed access names what was expected and found", "[json]") {
  const Json j = parse_json(R"({"a": "x", "n": -1})", "test");
  CHECK_THROWS_WITH(j.at("a").as_int(), Contains("expected 64-bit integer, got string"));
  CHECK_THROWS_WITH(j.at("n").as_uint(), Contains("non-negative"));
  CHECK_THROWS_WITH(j.at("b"), Contains("'b' is missing"));
}
