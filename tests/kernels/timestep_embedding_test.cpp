#include "dsv/kernels/timestep_embedding.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::reference_kernels;

TEST_CASE("timestep_embedding: right to one rounding, also where t is large",
          "[timestep_embedding]") {
  for (const std::int64_t F : {2, 6, 256}) {
    CAPTURE(F);
    const std::vector<float> times{0, 1e-3f, 1, 500.5f, 999.7f, 1000};
    const auto B = static_cast<std::int64_t>(times.size()), half = F / 2;
    const Tensor t = empty({B});
    std::copy(times.begin(), times.end(), t.f32());
    for_each_backend([&] {
      const auto got = same_for_any_threads([&](const Stream& stream) {
        std::vector<Output> out{Output({B, F})};
        tested_kernels().timestep_embedding({.t = t, .y = out[0]}, stream);
        return out;
      });
      const Tensor reference = empty({B, F});
      reference_kernels().timestep_embedding({.t = t, .y = reference}, {});
      // A GPU has its own exponential, cosine, and sine in double.
      CHECK((on_cuda() || bitwise_equal(got[0], reference)));
      for (std::int64_t b = 0; b < B; ++b) {
        for (std::int64_t i = 0; i < half; ++i) {
          const long double angle = static_cast<long double>(times[static_cast<std::size_t>(b)]) *
                                    std::exp(-std::log(10000.0L) * i / half);
          const auto cos = static_cast<double>(std::cos(angle));
          const auto sin = static_cast<double>(std::sin(angle));
          const float* y = got[0].tensor().f32() + b * F;
          // Half a unit in the last place, and what 1000 roundings of a double angle add to it.
          CHECK(std::fabs(static_cast<double>(y[i]) - cos) <= kEps * std::fabs(cos) + 1e-12);
          CHECK(std::fabs(static_cast<double>(y[half + i]) - sin) <= kEps * std::fabs(sin) + 1e-12);
        }
      }
    });
  }
}

TEST_CASE("timestep_embedding: many times on many threads", "[timestep_embedding]") {
  const Tensor t = random({40}, 1, 300);
  const Tensor want = empty({40, 128}), exact = empty({40, 128}, DType::kF64);
  reference_kernels().timestep_embedding({.t = t, .y = want}, {});
  reference_kernels().timestep_embedding({.t = t, .y = exact}, {});
  for_each_backend([&] {
    const auto got = same_for_any_threads([&](const Stream& stream) {
      std::vector<Output> out{Output({40, 128})};
      tested_kernels().timestep_embedding({.t = t, .y = out[0]}, stream);
      return out;
    });
    CHECK((on_cuda() || bitwise_equal(got[0], want)));
    CHECK(max_distance(got[0], exact) <= kEps + 2e-12);
  });
}

TEST_CASE("timestep_embedding: nothing to do", "[timestep_embedding]") {
  for_each_backend([] {
    for (const Shape& shape : {Shape{0, 8}, Shape{3, 0}}) {
      const Output y(shape);
      tested_kernels().timestep_embedding({.t = full({shape[0]}, 1), .y = y}, cpu_stream());
      CHECK(y.intact());
    }
  });
}

}  // namespace
}  // namespace dsv::test
