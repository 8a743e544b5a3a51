#include "dsv/kernels/machine_peak.h"

#include <chrono>

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

TEST_CASE("machine_peak: no kernel beats the peak", "[machine_peak]") {
  // A peak that is measured too low makes every share of it, and MFU, too high.
  const double peak = kernels::peak_fma_gflops(1);
  const std::int64_t n = 256;
  const Tensor x = full({n, n}, 1), y = empty({n, n});
  double best = 0;
  for (int run = 0; run < 20; ++run) {
    const auto start = std::chrono::steady_clock::now();
    kernels::cpu_kernels().linear_forward({.x = x, .weight = x, .y = y}, cpu_stream());
    const std::chrono::duration<double> d = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2e-9 * static_cast<double>(n * n * n) / d.count());
  }
  CAPTURE(peak, best);
  CHECK(peak > 0);
  CHECK(best <= 1.1 * peak);  // clocks differ a little from one millisecond to the next
}

TEST_CASE("machine_peak: a copy has a finite rate", "[machine_peak]") {
  const double rate = kernels::copy_bandwidth_gbytes(2);
  CHECK(rate > 0.01);
  CHECK(rate < 1e5);
}

}  // namespace
}  // namespace dsv::test
