#include "dsv/kernels/reduce.h"

#include "kernels/support/cpu_checks.h"

namespace dsv::test {
namespace {

using kernels::cpu_kernels;
using kernels::reference_kernels;

TEST_CASE("sum_squares: leaves out and counts what is not finite", "[reduce]") {
  const Tensor x = empty({6}), out = empty({2}, DType::kF64);
  for (int e = 0; const float v : {3.0f, NAN, 4.0f, INFINITY, -INFINITY, 0.0f}) x.f32()[e++] = v;
  for_each_isa([&] {
    for (const auto* table : {&cpu_kernels(), &reference_kernels()}) {
      table->sum_squares({.x = x, .out = out}, cpu_stream());
      CHECK(values(out) == std::vector<double>{25, 3});
    }
  });
}

TEST_CASE("sum_squares: within rounding of f64, the same for any threads", "[reduce]") {
  for_each_isa([] {
    for (const std::int64_t n : {0, 1, 5, 31, 16384, 16385, 100003}) {
      for (const double scale : {1e-20, 1.0, 1e19}) {
        CAPTURE(n, scale);
        const Tensor x = random({n}, 1, scale), want = empty({2}, DType::kF64);
        reference_kernels().sum_squares({.x = x, .out = want}, {});
        const auto run = [&](const Tensor& in) {
          return same_for_any_threads([&](const Stream& stream) {
            std::vector<Output> out{Output({2}, DType::kF64)};
            cpu_kernels().sum_squares({.x = in, .out = out[0]}, stream);
            return out;
          });
        };
        const std::vector<double> got = values(run(x)[0]);
        CHECK(got[0] == Approx(values(want)[0]).epsilon(1e-13));
        CHECK(got[1] == 0);
        if (n < 20) continue;
        // One NaN, one infinity: the rest of the sum is still there.
        const Tensor spoiled = converted(x, DType::kF32);
        spoiled.f32()[n / 2] = NAN;
        spoiled.f32()[n - 1] = -INFINITY;
        reference_kernels().sum_squares({.x = spoiled, .out = want}, {});
        const std::vector<double> left = values(run(spoiled)[0]);
        CHECK(left[0] == Approx(values(want)[0]).epsilon(1e-13));
        CHECK(left[1] == 2);
      }
    }
  });
}

TEST_CASE("sum_squares: bf16 is refused", "[reduce]") {
  const Tensor x = full({4}, 1, DType::kBF16), out = empty({2}, DType::kF64);
  check_refuses_bf16([&] { cpu_kernels().sum_squares({.x = x, .out = out}, cpu_stream()); });
}

}  // namespace
}  // namespace dsv::test
