#include "dsv/kernels/reduce.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::reference_kernels;

TEST_CASE("sum_squares: leaves out and counts what is not finite", "[reduce]") {
  const Tensor x = empty({6}), out = empty({2}, DType::kF64);
  for (int e = 0; const float v : {3.0f, NAN, 4.0f, INFINITY, -INFINITY, 0.0f}) x.f32()[e++] = v;
  for_each_backend([&] {
    for (const auto* table : {&tested_kernels(), &reference_kernels()}) {
      table->sum_squares({.x = x, .out = out}, cpu_stream());
      CHECK(values(out) == std::vector<double>{25, 3});
    }
  });
}

void check_sum(std::int64_t n, double scale, DType dtype) {
  CAPTURE(n, scale, to_string(dtype));
  const Tensor x = random({n}, 1, scale, dtype), want = empty({2}, DType::kF64);
  reference_kernels().sum_squares({.x = x, .out = want}, {});
  const auto run = [&](const Tensor& in) {
    return same_for_any_threads([&](const Stream& stream) {
      std::vector<Output> out{Output({2}, DType::kF64)};
      tested_kernels().sum_squares({.x = in, .out = out[0]}, stream);
      return out;
    });
  };
  const std::vector<double> got = values(run(x)[0]);
  CHECK(got[0] == Approx(values(want)[0]).epsilon(1e-13));
  CHECK(got[1] == 0);
  if (n < 20) return;
  // One NaN, one infinity: the rest of the sum is still there.
  const Tensor spoiled = converted(x, dtype);
  write_element(spoiled, n / 2 * size_of(dtype), NAN);
  write_element(spoiled, (n - 1) * size_of(dtype), -INFINITY);
  reference_kernels().sum_squares({.x = spoiled, .out = want}, {});
  const std::vector<double> left = values(run(spoiled)[0]);
  CHECK(left[0] == Approx(values(want)[0]).epsilon(1e-13));
  CHECK(left[1] == 2);
}

TEST_CASE("sum_squares: within rounding of f64, the same for any threads", "[reduce]") {
  for_each_backend([] {
    for (const std::int64_t n : {0, 1, 5, 31, 16384, 16385, 100003}) {
      for (const double scale : {1e-20, 1.0, 1e19}) check_sum(n, scale, DType::kF32);
    }
  });
}

TEST_CASE("sum_squares: bf16 on the GPU", "[reduce][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const std::int64_t n : {0, 1, 7, 8, 31, 2048, 16384, 16391, 100003, 400000}) {
      for (const double scale : {1e-20, 32.0, 1e19}) check_sum(n, scale, DType::kBF16);
    }
  });
}

TEST_CASE("sum_squares: the same bits wherever the numbers lie on the GPU", "[reduce][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const std::int64_t n = 50001;
      const Tensor x = random({n}, 1, 1, dtype), wider = empty({n + 1}, dtype);
      const Tensor moved = wider.slice(0, 1, n + 1);  // no longer aligned to 16 bytes
      const std::vector<double> from = values(x);
      std::size_t e = 0;
      for_each_element(moved,
                       [&](std::int64_t at, auto, auto) { write_element(moved, at, from[e++]); });
      const Output a({2}, DType::kF64), b({2}, DType::kF64);
      tested_kernels().sum_squares({.x = x, .out = a}, {});
      tested_kernels().sum_squares({.x = moved, .out = b}, {});
      CHECK(bitwise_equal(a, b));
    }
  });
}

TEST_CASE("sum_squares: bf16 is refused", "[reduce]") {
  const Tensor x = full({4}, 1, DType::kBF16), out = empty({2}, DType::kF64);
  check_refuses_bf16([&] { tested_kernels().sum_squares({.x = x, .out = out}, cpu_stream()); });
}

}  // namespace
}  // namespace dsv::test
