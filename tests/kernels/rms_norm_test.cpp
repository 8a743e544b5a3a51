#include "dsv/kernels/rms_norm.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::reference_kernels;
using kernels::RmsNormBackward;

// What storing a value costs, relative to it: half the distance of two bf16 numbers next to 1.
constexpr double rounding_of(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : 0;
}

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

void check_both_ways(const Case& c, DType dtype) {
  CAPTURE(c.rows, c.C, c.pad, c.scale, to_string(dtype));
  const double rounding = rounding_of(dtype);
  const Shape shape{c.rows, c.C}, pad{0, c.pad};
  const Tensor x = random(shape, 1, c.scale, dtype, pad), weight = random({c.C}, 2),
               dy = random(shape, 3, c.scale, dtype, pad), dweight0 = random({c.C}, 4);
  const Tensor y = empty(shape, DType::kF64), rstd = empty({c.rows}, DType::kF64);
  reference_kernels().rms_norm_forward(
      {.x = to_f64(x), .weight = to_f64(weight), .y = y, .rstd = rstd}, {});
  const auto forward = same_for_any_threads([&](const Stream& stream) {
    std::vector<Output> out{Output(shape, dtype, {0, 2 * c.pad}), Output({c.rows})};
    tested_kernels().rms_norm_forward({.x = x, .weight = weight, .y = out[0], .rstd = out[1]},
                                      stream);
    return out;
  });
  CHECK(row_error(forward[0], y) <= 8 * kEps + rounding);
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
    std::vector<Output> out{Output(shape, dtype, {0, 3 * c.pad}), Output::holding(dweight0)};
    tested_kernels().rms_norm_backward(
        {.x = x, .weight = weight, .rstd = rstd32, .dy = dy, .dx = out[0], .dweight = out[1]},
        stream);
    return out;
  });
  const double size = max_abs(rstd) * max_abs(dy) * max_abs(weight);
  CHECK(max_distance(backward[0], dx) <= 8 * kEps * size + rounding * max_abs(dx));
  const double terms = static_cast<double>(c.rows) * max_abs(dy) * 4;
  CHECK(max_distance(backward[1], dweight) <= kEps * (terms + 4));
}

TEST_CASE("rms_norm: forward and backward are within rounding of the reference", "[rms_norm]") {
  for_each_backend([] {
    for (const Case& c : kCases) check_both_ways(c, DType::kF32);
  });
}

TEST_CASE("rms_norm: both ways in bf16 on the GPU", "[rms_norm][gpu]") {
  DSV_NEEDS_GPU();
  // Rows in the registers of few and many threads, of 8 and of 16 elements each; rows that are no
  // packs, or too wide; blocks that have several rows, and a rest.
  const std::vector<Case> cases{
      {1, 1},          {0, 8},           {4202, 16, 8, 8}, {4100, 9, 1, 32}, {19, 1536, 3072, 128},
      {9, 3072},       {17, 5120, 8, 8}, {3, 6144},        {9, 6152},        {2, 20001, 1},
      {9001, 8, 0, 8}, {130, 20, 12}};
  on_gpu([&] {
    for (const Case& c : cases) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) check_both_ways(c, dtype);
    }
    // Several rows one after the other by several warps.
    check_both_ways({2060, 264}, DType::kBF16);
  });
}

// Columns [C, 2C) of a fused (rows, 3C) tensor.
TEST_CASE("rms_norm: columns of a wider tensor, in place, in bf16 on the GPU", "[rms_norm][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const Case& c : {Case{2200, 64}, Case{40, 5120}, Case{50, 33}}) {
      CAPTURE(c.rows, c.C);
      const auto columns = [&](const Tensor& t) { return t.slice(1, c.C, 2 * c.C); };
      const Tensor x = random({c.rows, 3 * c.C}, 1, 8, DType::kBF16), weight = random({c.C}, 2),
                   dy = random({c.rows, 3 * c.C}, 3, 8, DType::kBF16);
      const Tensor y = empty({c.rows, c.C}, DType::kBF16), dx = empty({c.rows, c.C}, DType::kBF16),
                   rstd = empty({c.rows}), rstd2 = empty({c.rows}), dweight = full({c.C}, 0);
      tested_kernels().rms_norm_forward({.x = columns(x), .weight = weight, .y = y, .rstd = rstd},
                                        {});
      tested_kernels().rms_norm_backward({.x = columns(x),
                                          .weight = weight,
                                          .rstd = rstd,
                                          .dy = columns(dy),
                                          .dx = dx,
                                          .dweight = dweight},
                                         {});
      const Tensor x2 = converted(x, DType::kBF16), dy2 = converted(dy, DType::kBF16);
      tested_kernels().rms_norm_forward(
          {.x = columns(x2), .weight = weight, .y = columns(x2), .rstd = rstd2}, {});
      tested_kernels().rms_norm_backward(
          {.x = columns(x), .weight = weight, .rstd = rstd, .dy = columns(dy2), .dx = columns(dy2)},
          {});
      CHECK(bitwise_equal(columns(x2), y));
      CHECK(bitwise_equal(rstd2, rstd));
      CHECK(bitwise_equal(columns(dy2), dx));
      for (const std::int64_t other : {std::int64_t{0}, 2 * c.C}) {
        const auto rest = [&](const Tensor& t) { return t.slice(1, other, other + c.C); };
        CHECK(bitwise_equal(rest(x2), rest(x)));
        CHECK(bitwise_equal(rest(dy2), rest(dy)));
      }
    }
  });
}

TEST_CASE("rms_norm: in place, and without dweight", "[rms_norm]") {
  for_each_backend([] {
    const Tensor x = random({70, 45}, 1), weight = random({45}, 2), dy = random({70, 45}, 3);
    const Tensor y = empty({70, 45}), rstd = empty({70}), dx = empty({70, 45}),
                 dweight = full({45}, 0);
    for (const auto* table : {&tested_kernels(), &reference_kernels()}) {
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
    tested_kernels().rms_norm_forward({.x = x, .weight = weight, .y = x, .rstd = rstd},
                                      cpu_stream());
  });
}

}  // namespace
}  // namespace dsv::test
