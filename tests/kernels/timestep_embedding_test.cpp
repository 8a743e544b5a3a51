#include "dsv/kernels/timestep_embedding.h"

#include "kernels/support/cpu_checks.h"

namespace dsv::test {
namespace {

using kernels::cpu_kernels;
using kernels::reference_kernels;

TEST_CASE("timestep_embedding: right to one rounding, also where t is large",
          "[timestep_embedding]") {
  for (const std::int64_t F : {2, 6, 256}) {
    CAPTURE(F);
    const std::vector<float> times{0, 1e-3f, 1, 500.5f, 999.7f, 1000};
    const auto B = static_cast<std::int64_t>(times.size()), half = F / 2;
    const Tensor t = empty({B});
    std::copy(times.begin(), times.end(), t.f32());
    const auto got = same_for_any_threads([&](const Stream& stream) {
      std::vector<Output> out{Output({B, F})};
      cpu_kernels().timestep_embedding({.t = t, .y = out[0]}, stream);
      return out;
    });
    const Tensor reference = empty({B, F});
    reference_kernels().timestep_embedding({.t = t, .y = reference}, {});
    CHECK(bitwise_equal(got[0], reference));
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
  }
}

TEST_CASE("timestep_embedding: many times on many threads", "[timestep_embedding]") {
  const Tensor t = random({40}, 1, 300);
  const auto got = same_for_any_threads([&](const Stream& stream) {
    std::vector<Output> out{Output({40, 128})};
    cpu_kernels().timestep_embedding({.t = t, .y = out[0]}, stream);
    return out;
  });
  const Tensor want = empty({40, 128});
  reference_kernels().timestep_embedding({.t = t, .y = want}, {});
  CHECK(bitwise_equal(got[0], want));
}

}  // namespace
}  // namespace dsv::test
