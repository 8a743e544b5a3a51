#include "dsv/kernels/rms_norm.h"

#include "kernels/support/cpu_checks.h"

namespace dsv::test {
namespace {

using kernels::cpu_kernels;
using kernels::reference_kernels;
using kernels::RmsNormBackward;

struct Case {
  std::int64_t rows, C;
  std::int64_t pad = 0;  // row stride beyond C
  double scale = 1;      // of x and dy
};

const std::vector<Case> kCases{
    {1, 1},           {1, 7, 3},           {3, 16},           {5, 33, 1}, {65, 130, 2},
    {300, 384, 0, 8}, {130, 128, 128, 32}, {64, 100, 4, 128}, {0, 8},     {2, 1027, 5, 1e-3}};

TEST_CASE("rms_norm: two channels by hand", "[rms_norm]") {
  const Tensor x = empty({1, 2}), weight = empty({2}), y = empty({1, 2}), rstd = empty({1});
  x.f32()[0] = 1, x.f32()[1] = 7;  // mean of squares: 25
  weight.f32()[0] = 5, weight.f32()[1] = 10;
  reference_kernels().rms_norm_forward({.x = x, .weight = weight, .y = y, .rstd = rstd, .eps = 0},
                                       {});
  CHECK(rstd.f32()[0] == 0.2f);
  CHECK(values(y) == std::vector<double>{1, 14});
}

TEST_CASE("rms_norm: forward and backward are within rounding of the reference", "[rms_norm]") {
  for_each_isa([] {
    for (const Case& c : kCases) {
      CAPTURE(c.rows, c.C, c.pad, c.scale);
      const Shape shape{c.rows, c.C}, pad{0, c.pad};
      const Tensor x = random(shape, 1, c.scale, DType::kF32, pad), weight = random({c.C}, 2),
                   dy = random(shape, 3, c.scale, DType::kF32, pad), dweight0 = random({c.C}, 4);
      const Tensor y = empty(shape, DType::kF64), rstd = empty({c.rows}, DType::kF64);
      reference_kernels().rms_norm_forward(
          {.x = to_f64(x), .weight = to_f64(weight), .y = y, .rstd = rstd}, {});
      const auto forward = same_for_any_threads([&](const Stream& stream) {
        std::vector<Output> out{Output(shape, DType::kF32, {0, 2 * c.pad}), Output({c.rows})};
        cpu_kernels().rms_norm_forward({.x = x, .weight = weight, .y = out[0], .rstd = out[1]},
                                       stream);
        return out;
      });
      CHECK(row_error(forward[0], y) <= 8 * kEps);
      CHECK(tensor_error(forward[1], rstd) <= 8 * kEps);

      const Tensor rstd32 = forward[1], dx = empty(shape, DType::kF64), dweight = to_f64(dweight0);
      reference_kernels().rms_norm_backward({.x = to_f64(x),
                                             .weight = to_f64(weight),
                                             .rstd = to_f64(rstd32),
                                             .dy = to_f64(dy),
                                             .dx = dx,
                                             .dweight = dweight},
                                            {});
      const auto backward = same_for_any_threads([&](const Stream& stream) {
        std::vector<Output> out{Output(shape, DType::kF32, {0, 3 * c.pad}),
                                Output::holding(dweight0)};
        cpu_kernels().rms_norm_backward(
            {.x = x, .weight = weight, .rstd = rstd32, .dy = dy, .dx = out[0], .dweight = out[1]},
            stream);
        return out;
      });
      const double size = max_abs(rstd) * max_abs(dy) * max_abs(weight);
      CHECK(max_distance(backward[0], dx) <= 8 * kEps * size);
      const double terms = static_cast<double>(c.rows) * max_abs(dy) * 4;
      CHECK(max_distance(backward[1], dweight) <= kEps * (terms + 4));
    }
  });
}

TEST_CASE("rms_norm: in place, and without dweight", "[rms_norm]") {
  for_each_isa([] {
    const Tensor x = random({70, 45}, 1), weight = random({45}, 2), dy = random({70, 45}, 3);
    const Tensor y = empty({70, 45}), rstd = empty({70}), dx = empty({70, 45}),
                 dweight = full({45}, 0);
    for (const auto* table : {&cpu_kernels(), &reference_kernels()}) {
      table->rms_norm_forward({.x = x, .weight = weight, .y = y, .rstd = rstd}, cpu_stream(2));
      const Tensor in_place = converted(x, DType::kF32), rstd2 = empty({70});
      table->rms_norm_forward({.x = in_place, .weight = weight, .y = in_place, .rstd = rstd2},
                              cpu_stream(2));
      CHECK(bitwise_equal(in_place, y));
      CHECK(bitwise_equal(rstd2, rstd));
      table->rms_norm_backward(
          {.x = x, .weight = weight, .rstd = rstd, .dy = dy, .dx = dx, .dweight = dweight},
          cpu_stream(2));
      const Tensor over_dy = converted(dy, DType::kF32);
      table->rms_norm_backward(
          {.x = x, .weight = weight, .rstd = rstd, .dy = over_dy, .dx = over_dy}, cpu_stream(2));
      CHECK(bitwise_equal(over_dy, dx));
    }
  });
}

TEST_CASE("rms_norm: the reference's gradients are those of finite differences", "[rms_norm]") {
  const Tensor x = random({3, 5}, 1, 1, DType::kF64), weight = random({5}, 2, 1, DType::kF64),
               dy = random({3, 5}, 3, 1, DType::kF64);
  const Tensor y = f64_like(x), rstd = empty({3}, DType::kF64), dx = f64_like(x),
               dweight = full({5}, 0, DType::kF64);
  const auto loss = [&] {
    reference_kernels().rms_norm_forward({.x = x, .weight = weight, .y = y, .rstd = rstd}, {});
    return inner(y, dy);
  };
  loss();
  reference_kernels().rms_norm_backward(
      {.x = x, .weight = weight, .rstd = rstd, .dy = dy, .dx = dx, .dweight = dweight}, {});
  CHECK(gradient_error(loss, x, dx) <= 1e-8);
  CHECK(gradient_error(loss, weight, dweight) <= 1e-8);
}

TEST_CASE("rms_norm: bf16 is refused", "[rms_norm]") {
  const Tensor x = full({1, 4}, 1, DType::kBF16), weight = full({4}, 1), rstd = empty({1});
  check_refuses_bf16([&] {
    cpu_kernels().rms_norm_forward({.x = x, .weight = weight, .y = x, .rstd = rstd}, cpu_stream());
  });
}

}  // namespace
}  // namespace dsv::test
