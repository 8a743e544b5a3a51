#include "dsv/kernels/geglu.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::reference_kernels;

TEST_CASE("geglu: by hand", "[geglu]") {
  const Tensor x = empty({1, 2}), y = empty({1, 1}, DType::kF64);
  x.f32()[0] = 3, x.f32()[1] = 1;
  reference_kernels().geglu_forward({.x = to_f64(x), .y = y}, {});
  CHECK(y.f64()[0] == Approx(3 * 0.8413447460685429));
}

TEST_CASE("geglu: both ways within rounding of the reference", "[geglu]") {
  struct Case {
    std::int64_t rows, F;
    double scale;
  };
  for_each_backend([] {
    for (const Case& c : std::vector<Case>{{1, 1, 1},
                                           {3, 16, 8},
                                           {5, 33, 32},
                                           {170, 129, 1},
                                           {60, 384, 128},
                                           {0, 8, 1},
                                           {4, 1001, 1},
                                           {1, 5003, 1}}) {
      CAPTURE(c.rows, c.F, c.scale);
      const Tensor x = random({c.rows, 2 * c.F}, 1, c.scale),
                   dy = random({c.rows, c.F}, 2, c.scale);
      const Tensor y = empty({c.rows, c.F}, DType::kF64), dx = f64_like(x);
      reference_kernels().geglu_forward({.x = to_f64(x), .y = y}, {});
      reference_kernels().geglu_backward({.x = to_f64(x), .dy = to_f64(dy), .dx = dx}, {});
      const auto got = same_for_any_threads([&](const Stream& stream) {
        std::vector<Output> out{Output({c.rows, c.F}), Output({c.rows, 2 * c.F})};
        tested_kernels().geglu_forward({.x = x, .y = out[0]}, stream);
        tested_kernels().geglu_backward({.x = x, .dy = dy, .dx = out[1]}, stream);
        return out;
      });
      CHECK(tensor_error(got[0], y) <= 4 * kEps);
      // Slopes cross zero: their error is one of dy times the other half of x.
      const double size = max_abs(dy) * std::max(max_abs(x), 1.0);
      CHECK(max_distance(got[1], dx) <= 6 * kEps * size);
      for (const auto* table : {&tested_kernels(), &reference_kernels()}) {
        const Tensor apart = empty(x.shape()), over_x = converted(x, DType::kF32);
        table->geglu_backward({.x = x, .dy = dy, .dx = apart}, cpu_stream(2));
        table->geglu_backward({.x = over_x, .dy = dy, .dx = over_x}, cpu_stream(2));
        CHECK(bitwise_equal(over_x, apart));
      }
    }
  });
}

// Largest |got - want| in units of what a bf16 result may be off by: its rounding, a little more
// for what comes before it, and `slack`.
double bf16_units(const Tensor& got, const Tensor& want, double slack) {
  const std::vector<double> g = values(got), w = values(want);
  double worst = 0;
  for (std::size_t e = 0; e < w.size(); ++e) {
    const double distance = std::fabs(g[e] - w[e]);
    if (std::isnan(distance)) return INFINITY;
    worst = std::max(worst, distance / (0x1p-8 * 33 / 32 * std::fabs(w[e]) + slack));
  }
  return worst;
}

TEST_CASE("geglu: bf16 on the GPU", "[geglu][gpu]") {
  DSV_NEEDS_GPU();
  struct Case {
    std::int64_t rows, F;
    double scale;
  };
  on_gpu([] {
    for (const Case& c : std::vector<Case>{{1, 1, 1},
                                           {1, 8, 1},
                                           {1, 20001, 1},
                                           {3, 16, 8},
                                           {5, 33, 32},
                                           {170, 129, 1},
                                           {60, 384, 128},
                                           {0, 8, 1},
                                           {4, 0, 1},
                                           {301, 264, 1}}) {
      CAPTURE(c.rows, c.F, c.scale);
      const Tensor x = random({c.rows, 2 * c.F}, 1, c.scale, DType::kBF16),
                   dy = random({c.rows, c.F}, 2, c.scale, DType::kBF16);
      const Tensor y = empty({c.rows, c.F}, DType::kF64), dx = f64_like(x);
      reference_kernels().geglu_forward({.x = to_f64(x), .y = y}, {});
      reference_kernels().geglu_backward({.x = to_f64(x), .dy = to_f64(dy), .dx = dx}, {});
      const auto got = same_for_any_threads([&](const Stream& stream) {
        std::vector<Output> out{Output({c.rows, c.F}, DType::kBF16),
                                Output({c.rows, 2 * c.F}, DType::kBF16)};
        tested_kernels().geglu_forward({.x = x, .y = out[0]}, stream);
        tested_kernels().geglu_backward({.x = x, .dy = dy, .dx = out[1]}, stream);
        return out;
      });
      CHECK(bf16_units(got[0], y, 1e-35) <= 1);
      // Slopes cross zero: their error is one of dy times the other half of x.
      const double size = max_abs(dy) * std::max(max_abs(x), 1.0);
      CHECK(bf16_units(got[1], dx, 0x1p-16 * size) <= 1);
      const Tensor over_x = converted(x, DType::kBF16);
      tested_kernels().geglu_backward({.x = over_x, .dy = dy, .dx = over_x}, cpu_stream());
      CHECK(bitwise_equal(over_x, got[1]));
    }
  });
}

TEST_CASE("geglu: the reference's gradient is that of finite differences", "[geglu]") {
  const Tensor x = random({7, 10}, 1, 2, DType::kF64), dy = random({7, 5}, 2, 1, DType::kF64);
  const Tensor y = f64_like(dy), dx = f64_like(x);
  reference_kernels().geglu_backward({.x = x, .dy = dy, .dx = dx}, {});
  const auto loss = [&] {
    reference_kernels().geglu_forward({.x = x, .y = y}, {});
    return inner(y, dy);
  };
  CHECK(gradient_error(loss, x, dx) <= 1e-8);
}

TEST_CASE("geglu: bf16 is refused", "[geglu]") {
  const Tensor x = full({1, 4}, 1, DType::kBF16), y = full({1, 2}, 1, DType::kBF16);
  check_refuses_bf16([&] { tested_kernels().geglu_forward({.x = x, .y = y}, cpu_stream()); });
}

}  // namespace
}  // namespace dsv::test
