#include "dsv/kernels/random_fill.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::RandomFill;
using kernels::RandomKind;
using kernels::reference_kernels;

const PhiloxKey kKey{.seed = 5, .purpose = RngPurpose::kNoise, .step = 3, .sample = 1ull << 40};

TEST_CASE("random_fill: element e is the number philox.h defines", "[random_fill]") {
  const Tensor normal = empty({7}), uniform = empty({7});
  for_each_backend([&] {
    for (const auto* table : {&tested_kernels(), &reference_kernels()}) {
      table->random_fill({.y = normal, .key = kKey, .first_element = 2, .mean = 1, .std = 3},
                         cpu_stream());
      table->random_fill(
          {.y = uniform, .key = kKey, .kind = RandomKind::kUniform, .first_element = 2},
          cpu_stream());
      for (std::uint64_t e = 0; e < 7; ++e) {
        CHECK(normal.f32()[e] == static_cast<float>(1 + 3 * philox_normal(kKey, e + 2)));
        CHECK(static_cast<double>(uniform.f32()[e]) == philox_uniform(kKey, e + 2));
      }
    }
  });
}

TEST_CASE("random_fill: a uniform number is never 0 or 1, and exact in f32", "[random_fill]") {
  for (const std::uint32_t word : {0u, 1u, 0x80000000u, 0xfffffe00u, 0xffffffffu}) {
    const double u = philox_uniform(word);
    CHECK(u > 0);
    CHECK(u < 1);
    CHECK(static_cast<double>(static_cast<float>(u)) == u);
  }
}

TEST_CASE("random_fill: Box-Muller's parts are right to a few units in the last place",
          "[random_fill]") {
  double log_error = 0, circle_error = 0;
  for (std::uint32_t k = 0; k < (1u << 23); k += k < 64 || k > (1u << 23) - 64 ? 1 : 37) {
    const double u = philox_uniform(k << 9);
    const long double log = std::log(static_cast<long double>(u));
    log_error =
        std::max(log_error, static_cast<double>(std::fabs((log_of_uniform(u) - log) / log)));
    const long double angle = 2 * std::acos(-1.0L) * u;
    const auto [cos, sin] = circle_of_uniform(u);
    circle_error = std::max({circle_error, static_cast<double>(std::fabs(cos - std::cos(angle))),
                             static_cast<double>(std::fabs(sin - std::sin(angle)))});
  }
  CHECK(log_error <= 5e-16);
  CHECK(circle_error <= 2e-16);
}

TEST_CASE("random_fill: the same numbers on every machine", "[random_fill]") {
  // Recorded; a compiler that fuses multiplications and additions, or a change of the formula,
  // would show here. Runs are reproduced from these numbers: they must not change.
  const std::array<double, 4> z = philox_normal4(PhiloxStream(kKey).block(7));
  CHECK(z[0] == 0x1.0e075b3795eacp+0);
  CHECK(z[1] == -0x1.c9f039099252ep-1);
  CHECK(z[2] == 0x1.400f6f1dbd8bfp+0);
  CHECK(z[3] == 0x1.11ef921b034ffp+0);
}

TEST_CASE("random_fill: bitwise the reference for any offset and threads", "[random_fill]") {
  for_each_backend([] {
    for (const RandomKind kind : {RandomKind::kUniform, RandomKind::kNormal}) {
      for (const std::int64_t n : {0, 1, 2, 3, 5, 31, 64, 131, 20003}) {
        for (const std::uint64_t first : {0ull, 1ull, 6ull, (1ull << 34) + 3}) {
          CAPTURE(static_cast<int>(kind), n, first);
          RandomFill args{
              .key = kKey, .kind = kind, .first_element = first, .mean = 0.5f, .std = 0.7f};
          const auto got = same_for_any_threads([&](const Stream& stream) {
            std::vector<Output> out{Output({n})};
            RandomFill call = args;
            call.y = out[0];
            tested_kernels().random_fill(call, stream);
            return out;
          });
          const Tensor want = empty({n});
          args.y = want;
          reference_kernels().random_fill(args, {});
          CHECK(bitwise_equal(got[0], want));
        }
      }
    }
  });
}

TEST_CASE("random_fill: bitwise the reference in f64 too", "[random_fill]") {
  // Rounding to f32 hides all but one in 10^8 differences of the last bit of a double. With the
  // mean at minus a number's own f32 value, what is left of it are its lower bits.
  for_each_backend([] {
    int wrong = 0;
    for (std::uint64_t e = 0; e < 512; ++e) {
      const auto mean = static_cast<float>(-philox_normal(kKey, e));
      const Tensor got = empty({512}), want = empty({512});
      tested_kernels().random_fill({.y = got, .key = kKey, .mean = mean}, cpu_stream());
      reference_kernels().random_fill({.y = want, .key = kKey, .mean = mean}, {});
      wrong += got.f32()[e] != want.f32()[e];
    }
    CHECK(wrong == 0);
  });
}

TEST_CASE("random_fill: a slice is filled as the whole is", "[random_fill]") {
  const Tensor whole = empty({1000}), part = empty({333});
  for_each_backend([&] {
    tested_kernels().random_fill({.y = whole, .key = kKey}, cpu_stream());
    tested_kernels().random_fill({.y = part, .key = kKey, .first_element = 417}, cpu_stream(2));
    CHECK(bitwise_equal(part, whole.slice(0, 417, 750)));
    for (const std::int64_t begin : {0, 1, 2, 416, 417}) {  // in its place, at any address
      CAPTURE(begin);
      const Output rest({1000});
      tested_kernels().random_fill({.y = rest.tensor().slice(0, begin, 999),
                                    .key = kKey,
                                    .first_element = static_cast<std::uint64_t>(begin)},
                                   cpu_stream());
      CHECK(bitwise_equal(rest.tensor().slice(0, begin, 999), whole.slice(0, begin, 999)));
      CHECK((rest.intact() && std::isnan(rest.tensor().f32()[999])));
      CHECK((begin == 0 || std::isnan(rest.tensor().f32()[begin - 1])));
    }
  });
}

TEST_CASE("random_fill: the numbers are distributed as they say", "[random_fill]") {
  constexpr std::int64_t n = 400000;
  const Tensor y = empty({n});
  const auto moments = [&](int power) {
    double sum = 0;
    for (std::int64_t e = 0; e < n; ++e) sum += std::pow(static_cast<double>(y.f32()[e]), power);
    return sum / n;
  };
  // Bounds are five standard errors.
  tested_kernels().random_fill({.y = y, .key = kKey}, cpu_stream());
  CHECK(std::fabs(moments(1)) <= 5 / std::sqrt(n));
  CHECK(std::fabs(moments(2) - 1) <= 5 * std::sqrt(2.0 / n));
  CHECK(std::fabs(moments(4) - 3) <= 5 * std::sqrt(96.0 / n));
  tested_kernels().random_fill({.y = y, .key = kKey, .kind = RandomKind::kUniform}, cpu_stream());
  CHECK(std::fabs(moments(1) - 0.5) <= 5 * std::sqrt(1.0 / 12 / n));
  CHECK(std::fabs(moments(2) - 1.0 / 3) <= 5 * std::sqrt(4.0 / 45 / n));
  for (std::int64_t e = 0; e < n; ++e) {
    if (!(y.f32()[e] > 0 && y.f32()[e] < 1)) FAIL("element " << e << " is " << y.f32()[e]);
  }
}

TEST_CASE("random_fill: bf16 is refused", "[random_fill]") {
  const Tensor y = full({4}, 1, DType::kBF16);
  check_refuses_bf16([&] { tested_kernels().random_fill({.y = y, .key = kKey}, cpu_stream()); });
}

}  // namespace
}  // namespace dsv::test
