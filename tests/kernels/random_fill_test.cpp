#include "dsv/kernels/random_fill.h"

#include "kernels/support/cpu_checks.h"

namespace dsv::test {
namespace {

using kernels::cpu_kernels;
using kernels::RandomFill;
using kernels::RandomKind;
using kernels::reference_kernels;

const PhiloxKey kKey{.seed = 5, .purpose = RngPurpose::kNoise, .step = 3, .sample = 1ull << 40};

TEST_CASE("random_fill: element e is the number philox.h defines", "[random_fill]") {
  const Tensor normal = empty({7}), uniform = empty({7});
  for (const auto* table : {&cpu_kernels(), &reference_kernels()}) {
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
}

TEST_CASE("random_fill: a uniform number is never 0 or 1, and exact in f32", "[random_fill]") {
  for (const std::uint32_t word : {0u, 1u, 0x80000000u, 0xfffffe00u, 0xffffffffu}) {
    const double u = philox_uniform(word);
    CHECK(u > 0);
    CHECK(u < 1);
    CHECK(static_cast<double>(static_cast<float>(u)) == u);
  }
}

TEST_CASE("random_fill: bitwise the reference for any offset and threads", "[random_fill]") {
  for (const RandomKind kind : {RandomKind::kUniform, RandomKind::kNormal}) {
    for (const std::int64_t n : {0, 1, 2, 3, 5, 64, 20003}) {
      for (const std::uint64_t first : {0ull, 1ull, 6ull, (1ull << 34) + 3}) {
        CAPTURE(static_cast<int>(kind), n, first);
        RandomFill args{
            .key = kKey, .kind = kind, .first_element = first, .mean = 0.5f, .std = 0.7f};
        const auto got = same_for_any_threads([&](const Stream& stream) {
          std::vector<Output> out{Output({n})};
          RandomFill call = args;
          call.y = out[0];
          cpu_kernels().random_fill(call, stream);
          return out;
        });
        const Tensor want = empty({n});
        args.y = want;
        reference_kernels().random_fill(args, {});
        CHECK(bitwise_equal(got[0], want));
      }
    }
  }
}

TEST_CASE("random_fill: a slice is filled as the whole is", "[random_fill]") {
  const Tensor whole = empty({1000}), part = empty({333});
  cpu_kernels().random_fill({.y = whole, .key = kKey}, cpu_stream());
  cpu_kernels().random_fill({.y = part, .key = kKey, .first_element = 417}, cpu_stream(2));
  CHECK(bitwise_equal(part, whole.slice(0, 417, 750)));
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
  cpu_kernels().random_fill({.y = y, .key = kKey}, cpu_stream());
  CHECK(std::fabs(moments(1)) <= 5 / std::sqrt(n));
  CHECK(std::fabs(moments(2) - 1) <= 5 * std::sqrt(2.0 / n));
  CHECK(std::fabs(moments(4) - 3) <= 5 * std::sqrt(96.0 / n));
  cpu_kernels().random_fill({.y = y, .key = kKey, .kind = RandomKind::kUniform}, cpu_stream());
  CHECK(std::fabs(moments(1) - 0.5) <= 5 * std::sqrt(1.0 / 12 / n));
  CHECK(std::fabs(moments(2) - 1.0 / 3) <= 5 * std::sqrt(4.0 / 45 / n));
  for (std::int64_t e = 0; e < n; ++e) {
    if (!(y.f32()[e] > 0 && y.f32()[e] < 1)) FAIL("element " << e << " is " << y.f32()[e]);
  }
}

TEST_CASE("random_fill: bf16 is refused", "[random_fill]") {
  const Tensor y = full({4}, 1, DType::kBF16);
  check_refuses_bf16([&] { cpu_kernels().random_fill({.y = y, .key = kKey}, cpu_stream()); });
}

}  // namespace
}  // namespace dsv::test
