#include "dsv/kernels/mse_loss.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::MseLossForward;
using kernels::reference_kernels;

TEST_CASE("mse_loss: by hand", "[mse_loss]") {
  const Tensor pred = empty({1, 2}), target = empty({1, 2}), loss = empty({1}),
               dpred = empty({1, 2});
  pred.f32()[0] = 1, pred.f32()[1] = 5;
  target.f32()[0] = 0, target.f32()[1] = 2;
  reference_kernels().mse_loss_forward({.pred = pred, .target = target, .loss = loss}, {});
  CHECK(loss.f32()[0] == 5);
  const Tensor weight = full({1}, 3);
  reference_kernels().mse_loss_forward(
      {.pred = pred, .target = target, .weight = weight, .loss = loss}, {});
  CHECK(loss.f32()[0] == 15);
  reference_kernels().mse_loss_backward(
      {.pred = pred, .target = target, .dpred = dpred, .grad_scale = 2}, {});
  CHECK(values(dpred) == std::vector<double>{2, 6});
}

TEST_CASE("mse_loss: both ways within rounding of the reference", "[mse_loss]") {
  struct Case {
    std::int64_t B, N, pad;
    bool weighted;
    double scale;
  };
  for_each_backend([] {
    for (const Case& c : std::vector<Case>{{1, 1, 0, false, 1},
                                           {3, 5, 2, true, 8},
                                           {2, 16385, 1, true, 32},
                                           {3, 40001, 0, false, 128},
                                           {0, 4, 0, true, 1}}) {
      CAPTURE(c.B, c.N, c.pad, c.weighted, c.scale);
      const Shape shape{c.B, c.N}, pad{0, c.pad};
      const Tensor pred = random(shape, 1, c.scale, DType::kF32, pad),
                   target = random(shape, 2, c.scale, DType::kF32, {0, 2 * c.pad}),
                   weight = c.weighted ? random({c.B}, 3) : Tensor(),
                   weight64 = converted(weight, DType::kF64);
      const Tensor loss = empty({c.B}, DType::kF64), dpred = empty(shape, DType::kF64);
      reference_kernels().mse_loss_forward(
          {.pred = to_f64(pred), .target = to_f64(target), .weight = weight64, .loss = loss}, {});
      reference_kernels().mse_loss_backward({.pred = to_f64(pred),
                                             .target = to_f64(target),
                                             .weight = weight64,
                                             .dpred = dpred,
                                             .grad_scale = 0.3f},
                                            {});
      const auto got = same_for_any_threads([&](const Stream& stream) {
        std::vector<Output> out{Output({c.B}), Output(shape, DType::kF32, {0, 3 * c.pad})};
        tested_kernels().mse_loss_forward(
            {.pred = pred, .target = target, .weight = weight, .loss = out[0]}, stream);
        tested_kernels().mse_loss_backward(
            {.pred = pred, .target = target, .weight = weight, .dpred = out[1], .grad_scale = 0.3f},
            stream);
        return out;
      });
      const std::vector<double> g = values(got[0]), w = values(loss);
      for (std::size_t b = 0; b < g.size(); ++b) {
        CHECK(std::fabs(g[b] - w[b]) <= kEps * std::fabs(w[b]));  // summed in f64, rounded once
      }
      CHECK(row_error(got[1], dpred) <= 3 * kEps);
    }
  });
}

TEST_CASE("mse_loss: the sum depends on the size alone on the GPU", "[mse_loss][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    // Rows that are aligned to 16 bytes, and the same rows where they are not.
    const std::int64_t B = 3, N = 150000;
    std::vector<std::vector<Output>> got;
    for (const std::int64_t pad : {0, 1}) {
      const Tensor pred = random({B, N}, 1, 8, DType::kF32, {0, pad}),
                   target = random({B, N}, 2, 8, DType::kF32, {0, 3 * pad}),
                   weight = random({B}, 3);
      const Tensor loss = empty({B}, DType::kF64), dpred = empty({B, N}, DType::kF64);
      reference_kernels().mse_loss_forward(
          {.pred = pred, .target = target, .weight = weight, .loss = loss}, {});
      reference_kernels().mse_loss_backward(
          {.pred = pred, .target = target, .weight = weight, .dpred = dpred, .grad_scale = 2}, {});
      got.push_back(same_for_any_threads([&](const Stream& stream) {
        std::vector<Output> out{Output({B}), Output({B, N}, DType::kF32, {0, 2 * pad})};
        tested_kernels().mse_loss_forward(
            {.pred = pred, .target = target, .weight = weight, .loss = out[0]}, stream);
        tested_kernels().mse_loss_backward(
            {.pred = pred, .target = target, .weight = weight, .dpred = out[1], .grad_scale = 2},
            stream);
        return out;
      }));
      const std::vector<double> g = values(got.back()[0]), w = values(loss);
      for (std::size_t b = 0; b < g.size(); ++b) {
        CHECK(std::fabs(g[b] - w[b]) <= kEps * std::fabs(w[b]));
      }
      CHECK(row_error(got.back()[1], dpred) <= 3 * kEps);
    }
    CHECK(bitwise_equal(got[0][0], got[1][0]));
    CHECK(bitwise_equal(got[0][1], got[1][1]));
  });
}

TEST_CASE("mse_loss: the reference's gradient is that of finite differences", "[mse_loss]") {
  const Tensor pred = random({3, 7}, 1, 1, DType::kF64), target = random({3, 7}, 2, 1, DType::kF64),
               weight = random({3}, 3, 1, DType::kF64), loss = empty({3}, DType::kF64),
               dpred = f64_like(pred);
  reference_kernels().mse_loss_backward(
      {.pred = pred, .target = target, .weight = weight, .dpred = dpred, .grad_scale = 0.5f}, {});
  const Tensor halves = full({3}, 0.5, DType::kF64);
  const auto total = [&] {
    reference_kernels().mse_loss_forward(
        {.pred = pred, .target = target, .weight = weight, .loss = loss}, {});
    return inner(loss, halves);
  };
  CHECK(gradient_error(total, pred, dpred) <= 1e-9);
}

TEST_CASE("mse_loss: bf16 is refused", "[mse_loss]") {
  const Tensor x = full({1, 4}, 1, DType::kBF16), loss = empty({1});
  check_refuses_bf16([&] {
    tested_kernels().mse_loss_forward({.pred = x, .target = x, .loss = loss}, cpu_stream());
  });
}

}  // namespace
}  // namespace dsv::test
