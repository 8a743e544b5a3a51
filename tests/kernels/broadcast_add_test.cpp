#include "dsv/kernels/broadcast_add.h"

#include "kernels/support/cpu_checks.h"

namespace dsv::test {
namespace {

using kernels::cpu_kernels;
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

TEST_CASE("broadcast_add: both ways within rounding of the reference", "[broadcast_add]") {
  struct Case {
    std::int64_t B, N;
    double scale;
  };
  for_each_isa([] {
    for (const Case& c : std::vector<Case>{{1, 1, 1},
                                           {3, 7, 8},
                                           {2, 40001, 32},
                                           {700, 130, 128},
                                           {5, 16, 1},
                                           {0, 9, 1},
                                           {3, 0, 1}}) {
      CAPTURE(c.B, c.N, c.scale);
      const Tensor x = random({c.B, c.N}, 1, c.scale), row = random({c.N}, 2, c.scale),
                   drow0 = random({c.N}, 3);
      const Tensor y = f64_like(x), drow = to_f64(drow0);
      reference_kernels().broadcast_add_forward({.x = to_f64(x), .row = to_f64(row), .y = y}, {});
      reference_kernels().broadcast_add_backward({.dy = to_f64(x), .drow = drow}, {});
      const auto got = same_for_any_threads([&](const Stream& stream) {
        std::vector<Output> out{Output({c.B, c.N}), Output::holding(drow0)};
        cpu_kernels().broadcast_add_forward({.x = x, .row = row, .y = out[0]}, stream);
        cpu_kernels().broadcast_add_backward({.dy = x, .drow = out[1]}, stream);
        return out;
      });
      CHECK(row_error(got[0], y) <= kEps);
      const double terms = static_cast<double>(c.B) * max_abs(x) + 4;
      CHECK(max_distance(got[1], drow) <= kEps * terms);
      const Tensor in_place = converted(x, DType::kF32);
      cpu_kernels().broadcast_add_forward({.x = in_place, .row = row, .y = in_place},
                                          cpu_stream(2));
      CHECK(bitwise_equal(in_place, got[0]));
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
      [&] { cpu_kernels().broadcast_add_forward({.x = x, .row = row, .y = x}, cpu_stream()); });
}

}  // namespace
}  // namespace dsv::test
