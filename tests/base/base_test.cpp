#include <cmath>
#include <string>
#include <vector>

#include "dsv/base/check_math.h"
#include "dsv/base/crc32c.h"
#include "dsv/base/philox.h"
#include "support/catch.h"

TEST_CASE("format: erased arguments print as fmt prints them", "[format]") {
  CHECK(dsv::format("{} {} {:.2f} {} {}", 1, -2, 3.14159, true, std::string("s")) ==
        "1 -2 3.14 true s");
  CHECK_THAT(dsv::format("{} {}", 1), Contains("bad message pattern"));
}

TEST_CASE("error: a failed check says what, where, and why", "[error]") {
  CHECK_THROWS_WITH([] { DSV_CHECK(1 == 2, "[x] expected {}, got {}", 1, 2); }(),
                    Contains("[x] expected 1, got 2") && Contains("1 == 2") &&
                        Contains("base_test.cpp"));
}

TEST_CASE("check_math: overflow and loss of value are errors", "[check_math]") {
  CHECK(dsv::ceil_div(7, 3) == 3);
  CHECK_THROWS(dsv::div_exact(7, 3));
  CHECK_THROWS(dsv::checked_mul(std::int64_t{1} << 40, std::int64_t{1} << 40));
  CHECK(dsv::narrow<int>(std::int64_t{5}) == 5);
  CHECK_THROWS(dsv::narrow<int>(std::int64_t{1} << 40));
  CHECK_THROWS(dsv::narrow<unsigned>(-1));
}

TEST_CASE("crc32c: known answers, both implementations, any split", "[crc32c]") {
  // RFC 3720 B.4: 32 zero bytes, 32 ones, and the usual check string.
  const std::string zeros(32, '\0'), ones(32, '\xff'), check = "123456789";
  CHECK(dsv::crc32c(zeros.data(), 32) == 0x8A9136AAu);
  CHECK(dsv::crc32c(ones.data(), 32) == 0x62A8AB43u);
  CHECK(dsv::crc32c(check.data(), 9) == 0xE3069283u);
  std::string data;
  for (int i = 0; i < 1000; ++i) data += static_cast<char>(i * 37);
  const auto whole = dsv::crc32c_portable(data.data(), data.size());
  for (std::size_t cut = 0; cut <= data.size(); cut += 13) {
    const auto head = dsv::crc32c(data.data(), cut);
    CHECK(dsv::crc32c(data.data() + cut, data.size() - cut, head) == whole);
  }
}

TEST_CASE("philox: known answers of Random123", "[philox]") {
  CHECK(dsv::philox4x32({0, 0, 0, 0}, 0, 0) ==
        dsv::PhiloxBlock{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  CHECK(dsv::philox4x32({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u) ==
        dsv::PhiloxBlock{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  CHECK(dsv::philox4x32({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, 0xa4093822u,
                        0x299f31d0u) ==
        dsv::PhiloxBlock{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST_CASE("philox: every part of the key matters, and the moments are right", "[philox]") {
  using dsv::RngPurpose;
  const dsv::PhiloxKey base{.seed = 1, .purpose = RngPurpose::kNoise, .step = 2, .sample = 3};
  auto seed = base, purpose = base, step = base, sample = base;
  seed.seed = 2;
  purpose.purpose = RngPurpose::kTimestep;
  step.step = 3;
  sample.sample = 4;
  for (const auto& other : {seed, purpose, step, sample}) {
    CHECK(dsv::philox_uniform(other) != dsv::philox_uniform(base));
  }
  double sum = 0, squares = 0, fourth = 0;
  const int n = 200'000;
  const dsv::PhiloxStream stream(base);
  for (int i = 0; i < n / 4; ++i) {
    for (const double z : dsv::philox_normal4(stream.block(static_cast<std::uint64_t>(i)))) {
      sum += z;
      squares += z * z;
      fourth += z * z * z * z;
    }
  }
  // Five standard errors of each moment of n normals.
  CHECK(std::fabs(sum / n) < 5 / std::sqrt(n));
  CHECK(std::fabs(squares / n - 1) < 5 * std::sqrt(2.0 / n));
  CHECK(std::fabs(fourth / n - 3) < 5 * std::sqrt(96.0 / n));
}
