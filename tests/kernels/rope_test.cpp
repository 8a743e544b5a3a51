#include "dsv/kernels/rope.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::reference_kernels;

// cos and sin of random angles.
struct Angles {
  Tensor cos, sin;
  Angles(std::int64_t S, std::int64_t pairs) : cos(empty({S, pairs})), sin(empty({S, pairs})) {
    const Tensor angle = random({S, pairs}, 77, 3, DType::kF64);
    for (std::int64_t e = 0; e < S * pairs; ++e) {
      cos.f32()[e] = static_cast<float>(std::cos(angle.f64()[e]));
      sin.f32()[e] = static_cast<float>(std::sin(angle.f64()[e]));
    }
  }
};

TEST_CASE("rope: a quarter turn", "[rope]") {
  const Tensor x = empty({1, 1, 1, 2}), y = empty({1, 1, 1, 2});
  x.f32()[0] = 1, x.f32()[1] = 2;
  const Tensor cos = full({1, 1}, 0), sin = full({1, 1}, 1);
  reference_kernels().rope({.x = x, .y = y, .cos = cos, .sin = sin}, {});
  CHECK(values(y) == std::vector<double>{-2, 1});
  reference_kernels().rope({.x = y, .y = x, .cos = cos, .sin = sin, .inverse = true}, {});
  CHECK(values(x) == std::vector<double>{1, 2});
}

// What storing a value costs, relative to it: half the distance of two bf16 numbers next to 1.
constexpr double rounding_of(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : 0;
}

struct Case {
  std::int64_t B, S, H, D;
  Shape pad;  // of the storage the view is cut from
  double scale = 1;
};

void check_rotation(const Case& c, bool inverse, DType dtype) {
  CAPTURE(c.B, c.S, c.H, c.D, inverse, to_string(dtype));
  const Shape shape{c.B, c.S, c.H, c.D};
  const Tensor x = random(shape, 1, c.scale, dtype, c.pad);
  const Angles angles(c.S, c.D / 2);
  const Tensor y = empty(shape, DType::kF64);
  reference_kernels().rope({.x = to_f64(x),
                            .y = y,
                            .cos = to_f64(angles.cos),
                            .sin = to_f64(angles.sin),
                            .inverse = inverse},
                           {});
  const auto got = same_for_any_threads([&](const Stream& stream) {
    std::vector<Output> out{Output(shape, dtype, c.pad), Output::holding(x, c.pad)};
    tested_kernels().rope(
        {.x = x, .y = out[0], .cos = angles.cos, .sin = angles.sin, .inverse = inverse}, stream);
    const Tensor in_place = out[1];
    tested_kernels().rope(
        {.x = in_place, .y = in_place, .cos = angles.cos, .sin = angles.sin, .inverse = inverse},
        stream);
    return out;
  });
  CHECK(row_error(got[0], y) <= 3 * kEps + rounding_of(dtype));
  CHECK(bitwise_equal(got[1], got[0]));
}

TEST_CASE("rope: within rounding of the reference for any head size and strides", "[rope]") {
  const std::vector<Case> cases{{1, 1, 1, 2, {}},
                                {2, 3, 2, 4, {}},
                                {1, 5, 3, 6, {0, 0, 0, 2}},
                                {2, 9, 3, 64, {0, 0, 2}, 8},
                                {1, 70, 5, 72, {0, 1}, 32},
                                {2, 33, 4, 96, {1, 2, 1, 32}, 128},
                                {1, 17, 2, 258, {}},
                                {1, 3, 1, 600, {}},
                                {2, 150, 2, 128, {}},
                                {0, 3, 2, 8, {}},
                                {2, 0, 2, 8, {}}};
  for_each_backend([&] {
    for (const Case& c : cases) {
      for (const bool inverse : {false, true}) check_rotation(c, inverse, DType::kF32);
    }
  });
}

TEST_CASE("rope: bf16 on the GPU", "[rope][gpu]") {
  DSV_NEEDS_GPU();
  // Heads in runs and a rest; heads that are packs, and (D, or a stride) that are not.
  const std::vector<Case> cases{{1, 1, 1, 2, {}},
                                {2, 0, 2, 8, {}},
                                {2, 37, 12, 128, {}, 8},
                                {1, 90, 5, 64, {0, 1, 2, 8}, 32},
                                {2, 33, 7, 96, {1, 2, 1, 3}, 128},
                                {1, 17, 3, 132, {}},
                                {1, 5, 40, 128, {0, 0, 80}},
                                {1, 9, 2, 6, {0, 0, 1, 1}},
                                {1, 3, 1, 4096, {}}};
  on_gpu([&] {
    for (const Case& c : cases) {
      for (const bool inverse : {false, true}) {
        for (const DType dtype : {DType::kF32, DType::kBF16}) check_rotation(c, inverse, dtype);
      }
    }
  });
}

TEST_CASE("rope: there and back, and the inverse is the gradient", "[rope]") {
  const Shape shape{2, 3, 2, 6};
  const Tensor x = random(shape, 1, 1, DType::kF64), dy = random(shape, 2, 1, DType::kF64);
  const Angles angles(3, 3);
  const Tensor cos = empty({3, 3}, DType::kF64), sin = empty({3, 3}, DType::kF64);
  for (int e = 0; e < 9; ++e) {  // exactly on the circle
    const double angle = std::atan2(static_cast<double>(angles.sin.f32()[e]),
                                    static_cast<double>(angles.cos.f32()[e]));
    cos.f64()[e] = std::cos(angle);
    sin.f64()[e] = std::sin(angle);
  }
  const Tensor y = f64_like(x), back = f64_like(x), dx = f64_like(x);
  const auto loss = [&] {
    reference_kernels().rope({.x = x, .y = y, .cos = cos, .sin = sin}, {});
    return inner(y, dy);
  };
  loss();
  reference_kernels().rope({.x = y, .y = back, .cos = cos, .sin = sin, .inverse = true}, {});
  CHECK(max_distance(back, x) <= 1e-15);
  reference_kernels().rope({.x = dy, .y = dx, .cos = cos, .sin = sin, .inverse = true}, {});
  CHECK(gradient_error(loss, x, dx) <= 1e-9);
}

TEST_CASE("rope: bf16 is refused", "[rope]") {
  const Tensor x = full({1, 1, 1, 4}, 1, DType::kBF16), table = full({1, 2}, 1);
  check_refuses_bf16(
      [&] { tested_kernels().rope({.x = x, .y = x, .cos = table, .sin = table}, cpu_stream()); });
}

}  // namespace
}  // namespace dsv::test
