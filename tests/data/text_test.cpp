#include "dsv/data/text.h"

#include <cmath>
#include <cstring>

#include "dsv/base/philox.h"
#include "support/catch.h"

using namespace dsv::data;

TEST_CASE("text: words are lower-cased runs of letters, digits and non-ASCII characters",
          "[text]") {
  using Words = std::vector<std::string>;
  CHECK(split_words("A dog's ball, red!") == Words{"a", "dog's", "ball", "red"});
  CHECK(split_words("  'quoted' left-to-right 2x ") ==
        Words{"quoted", "left", "to", "right", "2x"});
  CHECK(split_words("STRAßE!日本") == Words{"straße", "日本"});  // only ASCII is lower-cased
  CHECK(split_words("").empty());
  CHECK(split_words(" ,;' ").empty());
}

TEST_CASE("text: hashed embeddings are the same everywhere and have unit variance", "[text]") {
  const TextSettings settings{.dim = 30, .max_len = 4};
  const dsv::Tensor a = hashed_text("Red circle", settings);
  const dsv::Tensor b = hashed_text("circle red", settings);
  REQUIRE(a.shape() == dsv::Shape{2, 30});
  CHECK(std::memcmp(a.f32(), b.f32() + 30, 30 * 4) == 0);
  CHECK(std::memcmp(a.f32() + 30, b.f32(), 30 * 4) == 0);
  CHECK(a.f32()[0] != a.f32()[30]);
  CHECK(hashed_text("a b c d e f", settings).dim(0) == 4);  // cut to max_len
  for (int column = 0; column < 30; ++column) {
    CHECK(a.f32()[column] ==
          static_cast<float>(dsv::philox_normal(
              {.purpose = dsv::RngPurpose::kText, .sample = dsv::fnv1a("red", 3)},
              static_cast<std::uint64_t>(column))));
  }
  const dsv::Tensor wide = hashed_text("word", {.dim = 40000, .max_len = 1});
  double sum = 0, sum_sq = 0;
  for (int i = 0; i < 40000; ++i) {
    sum += wide.f32()[i];
    sum_sq += wide.f32()[i] * wide.f32()[i];
  }
  CHECK(std::fabs(sum / 40000) < 0.02);  // four standard errors
  CHECK(std::fabs(sum_sq / 40000 - 1) < 0.03);
}

TEST_CASE("text: the null text is one row of zeros", "[text]") {
  const dsv::Tensor null = hashed_text("", {.dim = 8, .max_len = 64});
  REQUIRE(null.shape() == dsv::Shape{1, 8});
  for (int i = 0; i < 8; ++i) CHECK(null.f32()[i] == 0);
}

TEST_CASE("text: cleaning leaves valid UTF-8 without controls", "[text]") {
  CHECK(clean_text("  a\t\n b\r\n") == "a b");
  CHECK(clean_text("\xff\xfe") == "\xEF\xBF\xBD\xEF\xBF\xBD");
  CHECK(clean_text("\xed\xa0\x80x") == "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDx");  // a surrogate
  CHECK(clean_text("\xc0\xaf") == "\xEF\xBF\xBD\xEF\xBF\xBD");                    // overlong '/'
  CHECK(clean_text("\x1b[31mred\xc2\x9b") == "[31mred");
  CHECK(clean_text("äöü", 4) == "äö");
  CHECK(clean_text("日本 🎬") == "日本 🎬");
  CHECK(clean_text(std::string("a\0b", 3)) == "a b");
  CHECK(printable(std::string(500, 'x')).size() == 80);
}
