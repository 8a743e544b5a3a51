#include "dsv/kernels/machine_peak.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dsv::kernels {
namespace {

using Clock = std::chrono::steady_clock;

// Enough independent chains for latency 4-5 at two a cycle. The empty asm hides each value from the
// optimiser, which would otherwise fold the loop.
constexpr int kChains = 12;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) double fma_avx512(std::int64_t rounds) {
  __m512 chain[kChains];
  for (auto& c : chain) c = _mm512_set1_ps(1.0f);
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      chain[c] = _mm512_fmadd_ps(chain[c], a, b);
      asm volatile("" : "+v"(chain[c]));
    }
  }
  return 2.0 * 16 * kChains * static_cast<double>(rounds);
}

__attribute__((target("avx2,fma"))) double fma_avx2(std::int64_t rounds) {
  __m256 chain[kChains];
  for (auto& c : chain) c = _mm256_set1_ps(1.0f);
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      chain[c] = _mm256_fmadd_ps(chain[c], a, b);
      asm volatile("" : "+x"(chain[c]));
    }
  }
  return 2.0 * 8 * kChains * static_cast<double>(rounds);
}
#endif

double fma_portable(std::int64_t rounds) {
  float chain[kChains * 4];
  for (float& c : chain) c = 1.0f;
  for (std::int64_t i = 0; i < rounds; ++i) {
    for (float& c : chain) c = c * 0.999f + 1e-3f;
    asm volatile("" : : "r"(chain) : "memory");
  }
  return 2.0 * 4 * kChains * static_cast<double>(rounds);
}

double fma_round(std::int64_t rounds) {
#if defined(__x86_64__)
  static const bool has_avx512 = __builtin_cpu_supports("avx512f") != 0;
  static const bool has_avx2 =
      __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  if (has_avx512) return fma_avx512(rounds);
  if (has_avx2) return fma_avx2(rounds);
#endif
  return fma_portable(rounds);
}

}  // namespace

double peak_fma_gflops(int num_threads) {
  constexpr std::int64_t kRounds = 200'000;
  double best = 0;
  // Best of several: a neighbour's burst must not lower the peak that shares are taken of.
  for (int attempt = 0; attempt < 8; ++attempt) {
    double flops = 0;
    const auto start = Clock::now();
#pragma omp parallel num_threads(num_threads) reduction(+ : flops)
    flops += fma_round(kRounds);
    const std::chrono::duration<double> d = Clock::now() - start;
    if (attempt > 0) best = std::max(best, flops / d.count());  // the first one starts the threads
  }
  return best / 1e9;
}

double copy_bandwidth_gbytes(int num_threads) {
  constexpr std::int64_t kBytes = 128 << 20;
  const auto from = std::make_unique<char[]>(kBytes), to = std::make_unique<char[]>(kBytes);
  std::memset(from.get(), 1, kBytes);
  double best = 0;
  for (int attempt = 0; attempt < 6; ++attempt) {
    const auto start = Clock::now();
#pragma omp parallel num_threads(num_threads)
    {
      const std::int64_t t = omp_get_thread_num(), n = omp_get_num_threads();
      const std::int64_t begin = kBytes * t / n, end = kBytes * (t + 1) / n;
      std::memcpy(to.get() + begin, from.get() + begin, static_cast<std::size_t>(end - begin));
    }
    const std::chrono::duration<double> d = Clock::now() - start;
    if (attempt > 0) best = std::max(best, 2.0 * kBytes / d.count());
  }
  return best / 1e9;
}

}  // namespace dsv::kernels
