#include "dsv/kernels/machine_peak.h"

#define HWY_TARGET_INCLUDE "cpu/machine_peak.cpp"
#include "cpu/targets.h"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "cpu/map-inl.h"
#include "cpu/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// Enough independent sums to hide the latency of any multiply-add, few enough for the registers.
constexpr int kPeakSums = 12;

// Returns the FLOP it has done. `small` is not known to the compiler, which must not do them itself.
double run_multiply_adds(std::int64_t rounds, float small, float* result) {
  const F32 d;
  VecF32 sums[kPeakSums];
#pragma GCC unroll 16
  for (int i = 0; i < kPeakSums; ++i) sums[i] = hn::Set(d, static_cast<float>(i) * small);
  const VecF32 factor = hn::Set(d, 1 - small), offset = hn::Set(d, small);
#pragma GCC unroll 1
  for (std::int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kPeakSums; ++i) sums[i] = hn::MulAdd(sums[i], factor, offset);
  }
  VecF32 total = sums[0];
#pragma GCC unroll 16
  for (int i = 1; i < kPeakSums; ++i) total = hn::Add(total, sums[i]);
  *result = sum_of_lanes(total);
  return 2.0 * static_cast<double>(rounds) * kPeakSums * static_cast<double>(hn::Lanes(d));
}

void copy_floats(const float* from, std::int64_t n, float* to) {
  for_each_vector(n, [=](auto at) HWY_ATTR { at.store(at.load(from), to); });
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels {
namespace cpu {
namespace {

HWY_EXPORT(run_multiply_adds);
HWY_EXPORT(copy_floats);

// Seconds from the moment that all threads are ready until the last one is done.
template <typename Fn>
double seconds_of(int num_threads, const Fn& fn) {
  using Clock = std::chrono::steady_clock;
  Clock::time_point start;
#pragma omp parallel num_threads(num_threads)
  {
#pragma omp barrier
#pragma omp master
    start = Clock::now();
#pragma omp barrier
    fn(omp_get_thread_num(), omp_get_num_threads());
  }
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace
}  // namespace cpu

double peak_fma_gflops(int num_threads) {
  // Runs of half a millisecond: on a busy machine some of them find all cores free.
  constexpr std::int64_t kRounds = 1 << 17;
  constexpr int kRuns = 100;
  volatile float small = 1e-9f;
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    double flop = 0;
    const double seconds = cpu::seconds_of(num_threads, [&](int, int) {
      float result = 0;
      const double mine = HWY_DYNAMIC_DISPATCH(cpu::run_multiply_adds)(kRounds, small, &result);
      volatile float keep = result;
      static_cast<void>(keep);
#pragma omp atomic
      flop += mine;
    });
    best = std::max(best, 1e-9 * flop / seconds);
  }
  return best;
}

double copy_bandwidth_gbytes(int num_threads) {
  constexpr std::int64_t kFloats = 32 << 20;  // 128 MiB each way
  const std::unique_ptr<float[]> from(new float[kFloats]), to(new float[kFloats]);
  const auto share = [](int thread, int count) { return kFloats / 1024 * thread / count * 1024; };
  double best = 0;
  for (int run = -1; run < 6; ++run) {
    const double seconds = cpu::seconds_of(num_threads, [&](int thread, int count) {
      const std::int64_t begin = share(thread, count), end = share(thread + 1, count);
      if (run < 0) {  // each thread touches its pages first
        std::fill(from.get() + begin, from.get() + end, 1.0f);
        std::fill(to.get() + begin, to.get() + end, 0.0f);
        return;
      }
      HWY_DYNAMIC_DISPATCH(cpu::copy_floats)(from.get() + begin, end - begin, to.get() + begin);
    });
    if (run >= 0) best = std::max(best, 1e-9 * 2 * sizeof(float) * kFloats / seconds);
  }
  return best;
}

}  // namespace dsv::kernels
#endif
