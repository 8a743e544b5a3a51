#include "dsv/kernels/broadcast_add.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::reference_kernels;

TEST_CASE("broadcast_add: by hand", "[broadcast_add]") {
  const Tensor x = empty({2, 2}), row = empty({2}), y = empty({2, 2}), drow = full({2}, 1);
  for (int e = 0; e < 4; ++e) x.f32()[e] = static_cast<float>(e + 1);
  row.f32()[0] = 10, row.f32()[1] = 20;
  reference_kernels().broadcast_add_forward({.x = x, .row = row, .y = y}, {});
  CHECK(values(y) == std::vector<double>{11, 22, 13, 24});
  reference_kernels().broadcast_add_backward({.dy = x, .drow = drow}, {});
  CHECK(values(drow) == std::vector<double>{5, 7});
}

// What storing a value costs, relative to it: half the distance of two bf16 numbers next to 1.
constexpr double rounding_of(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : 0;
}

struct Case {
  std::int64_t B, N;
  double scale;
};

void check_both_ways(const Case& c, DType dtype) {
  CAPTURE(c.B, c.N, c.scale, to_string(dtype));
  const Tensor x = random({c.B, c.N}, 1, c.scale, dtype), row = random({c.N}, 2, c.scale),
               drow0 = random({c.N}, 3);
  const Tensor y = f64_like(x), drow = to_f64(drow0);
  reference_kernels().broadcast_add_forward({.x = to_f64(x), .row = to_f64(row), .y = y}, {});
  reference_kernels().broadcast_add_backward({.dy = to_f64(x), .drow = drow}, {});
  const auto got = same_for_any_threads([&](const Stream& stream) {
    std::vector<Output> out{Output({c.B, c.N}, dtype), Output::holding(drow0)};
    tested_kernels().broadcast_add_forward({.x = x, .row = row, .y = out[0]}, stream);
    tested_kernels().broadcast_add_backward({.dy = x, .drow = out[1]}, stream);
    return out;
  });
  CHECK(row_error(got[0], y) <= kEps + rounding_of(dtype));
  const double terms = static_cast<double>(c.B) * max_abs(x) + 4;
  CHECK(max_distance(got[1], drow) <= kEps * terms);
  const Tensor in_place = converted(x, dtype);
  tested_kernels().broadcast_add_forward({.x = in_place, .row = row, .y = in_place}, cpu_stream(2));
  CHECK(bitwise_equal(in_place, got[0]));
}

TEST_CASE("broadcast_add: both ways within rounding of the reference", "[broadcast_add]") {
  for_each_backend([] {
    for (const Case& c : std::vector<Case>{{1, 1, 1},
                                           {3, 7, 8},
                                           {2, 40001, 32},
                                           {700, 130, 128},
                                           {5, 16, 1},
                                           {0, 9, 1},
                                           {3, 0, 1}}) {
      check_both_ways(c, DType::kF32);
    }
  });
}

TEST_CASE("broadcast_add: both ways in bf16 on the GPU", "[broadcast_add][gpu]") {
  DSV_NEEDS_GPU();
  // Rows that are packs and rows that are not; few columns and many rows, and the other way round.
  const std::vector<Case> cases{{1, 1, 1},      {0, 9, 1},       {3, 0, 1},     {5, 16, 8},
                                {4, 9216, 32},  {2, 40001, 128}, {2, 80000, 1}, {700, 130, 8},
                                {700, 136, 32}, {4500, 8, 1}};
  on_gpu([&] {
    for (const Case& c : cases) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) check_both_ways(c, dtype);
    }
  });
}

TEST_CASE("broadcast_add: the reference's gradient is that of finite differences",
          "[broadcast_add]") {
  const Tensor x = random({3, 5}, 1, 1, DType::kF64), row = random({5}, 2, 1, DType::kF64),
               dy = random({3, 5}, 3, 1, DType::kF64), y = f64_like(x),
               drow = full({5}, 0, DType::kF64);
  reference_kernels().broadcast_add_backward({.dy = dy, .drow = drow}, {});
  const auto loss = [&] {
    reference_kernels().broadcast_add_forward({.x = x, .row = row, .y = y}, {});
    return inner(y, dy);
  };
  CHECK(gradient_error(loss, row, drow) <= 1e-9);
  CHECK(gradient_error(loss, x, dy) <= 1e-9);
}

TEST_CASE("broadcast_add: bf16 is refused", "[broadcast_add]") {
  const Tensor x = full({1, 4}, 1, DType::kBF16), row = full({4}, 1);
  check_refuses_bf16(
      [&] { tested_kernels().broadcast_add_forward({.x = x, .row = row, .y = x}, cpu_stream()); });
}

}  // namespace
}  // namespace dsv::test
