#include "dsv/kernels/flow_mix.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::reference_kernels;

TEST_CASE("flow_mix: by hand", "[flow_mix]") {
  const Tensor x0 = full({1, 1}, 4), noise = full({1, 1}, 8), sigma = full({1}, 0.25),
               x_t = empty({1, 1}), target = empty({1, 1});
  reference_kernels().flow_mix(
      {.x0 = x0, .noise = noise, .sigma = sigma, .x_t = x_t, .target = target, .target_sign = -1},
      {});
  CHECK(x_t.f32()[0] == 5);
  CHECK(target.f32()[0] == -4);
}

TEST_CASE("flow_mix: within rounding of the reference, apart or in place", "[flow_mix]") {
  struct Case {
    std::int64_t B, N;
  };
  for_each_backend([] {
    for (const Case& c :
         std::vector<Case>{{1, 1}, {3, 17}, {2, 40003}, {3, 20480}, {1, 10007}, {0, 3}, {2, 0}}) {
      for (const float sign : {1.0f, -1.0f}) {
        CAPTURE(c.B, c.N, sign);
        const Shape shape{c.B, c.N};
        const Tensor x0 = random(shape, 1), noise = random(shape, 2), sigma = empty({c.B});
        for (std::int64_t b = 0; b < c.B; ++b) sigma.f32()[b] = 0.37f * static_cast<float>(b);
        const Tensor x_t = empty(shape, DType::kF64), target = empty(shape, DType::kF64);
        reference_kernels().flow_mix({.x0 = to_f64(x0),
                                      .noise = to_f64(noise),
                                      .sigma = to_f64(sigma),
                                      .x_t = x_t,
                                      .target = target,
                                      .target_sign = sign},
                                     {});
        const auto got = same_for_any_threads([&](const Stream& stream) {
          std::vector<Output> out{Output(shape), Output(shape), Output::holding(x0),
                                  Output::holding(noise)};
          tested_kernels().flow_mix({.x0 = x0,
                                     .noise = noise,
                                     .sigma = sigma,
                                     .x_t = out[0],
                                     .target = out[1],
                                     .target_sign = sign},
                                    stream);
          tested_kernels().flow_mix({.x0 = out[2],
                                     .noise = out[3],
                                     .sigma = sigma,
                                     .x_t = out[2],
                                     .target = out[3],
                                     .target_sign = sign},
                                    stream);
          return out;
        });
        CHECK(row_error(got[0], x_t) <= 3 * kEps);
        CHECK(row_error(got[1], target) <= kEps);
        CHECK(bitwise_equal(got[2], got[0]));
        CHECK(bitwise_equal(got[3], got[1]));
      }
    }
  });
}

TEST_CASE("flow_mix: bf16 is refused", "[flow_mix]") {
  const Tensor x = full({1, 4}, 1, DType::kBF16), sigma = full({1}, 0.5);
  check_refuses_bf16([&] {
    tested_kernels().flow_mix({.x0 = x, .noise = x, .sigma = sigma, .x_t = x, .target = x},
                              cpu_stream());
  });
}

}  // namespace
}  // namespace dsv::test
