// What the tests of a filling share: every backend of this machine, any number of threads, the
// distance to the reference.
#pragma once

#include <hwy/targets.h>

#include <string>
#include <vector>

#include "kernels/support/harness.h"
#include "kernels/support/hosted_table.h"
#include "support/catch.h"

namespace dsv::test {

constexpr double kEps = 0x1p-24;     // rounding of one f32 operation, relative
constexpr double kEpsBf16 = 0x1p-8;  // of storing a value as bf16

// The table under test: that of the backend which for_each_backend is at, the cpu's elsewhere.
inline const kernels::KernelTable*& tested_table() {
  static const kernels::KernelTable* table = &kernels::cpu_kernels();
  return table;
}
inline const kernels::KernelTable& tested_kernels() {
  return *tested_table();
}
inline bool on_cuda() {
  return std::string(tested_kernels().name) == "cuda";
}

// DSV_TEST_BACKEND=cuda leaves out the cpu (for compute-sanitizer), =cpu the GPU.
inline bool has_backend(const char* name) {
  const char* only = std::getenv("DSV_TEST_BACKEND");
  if (only != nullptr && std::string(only) != name) return false;
  return std::string(name) == "cpu" || num_cuda_devices() > 0;
}

// fn() once on the GPU, if there is one, with tested_kernels() being the cuda filling.
template <typename Fn>
void on_gpu(const Fn& fn) {
  if (!has_backend("cuda")) return;
  struct Restore {
    ~Restore() { tested_table() = &kernels::cpu_kernels(); }
  } restore;
  tested_table() = &hosted_cuda_kernels();
  INFO("on the GPU");
  fn();
}

// fn() once per instruction set that this machine has, best first, the portable baseline last.
template <typename Fn>
void for_each_isa(const Fn& fn) {
  if (!has_backend("cpu")) return;
  struct Restore {
    ~Restore() { choose(0); }
    static void choose(std::int64_t only) {
      hwy::SetSupportedTargetsForTest(only);
      hwy::GetChosenTarget().DeInit();
      hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    }
  } restore;
  Restore::choose(0);
  constexpr std::int64_t kCompiled =
      HWY_AVX3 | HWY_AVX2 | HWY_STATIC_TARGET;  // kernels/cpu/targets.h
  for (std::int64_t left = hwy::SupportedTargets() & kCompiled; left != 0; left &= left - 1) {
    const std::int64_t isa = left & -left;
    Restore::choose(isa);
    INFO("on " << hwy::TargetName(isa));
    fn();
  }
}

// fn() once on the GPU, if there is one, and once per instruction set of the processor.
template <typename Fn>
void for_each_backend(const Fn& fn) {
  on_gpu(fn);
  for_each_isa(fn);
}

// For test cases that only a GPU can run, of tag [gpu].
#define DSV_NEEDS_GPU()                          \
  do {                                           \
    if (!::dsv::test::has_backend("cuda")) {     \
      WARN("SKIPPED: " << ::dsv::why_no_cuda()); \
      return;                                    \
    }                                            \
  } while (false)

// run(stream) makes its outputs afresh and returns them: they must be the same bits for any number
// of threads (on a GPU: in every run) and lie within their canaries. Returns those of one thread.
template <typename Run>
std::vector<Output> same_for_any_threads(const Run& run) {
  const std::vector<Output> one = run(cpu_stream(1));
  for (const int num_threads : {1, 2, 3, 5}) {
    const std::vector<Output> many = run(cpu_stream(num_threads));
    for (std::size_t i = 0; i < one.size(); ++i) {
      INFO("output " << i << " with " << num_threads << " threads");
      CHECK(bitwise_equal(one[i], many[i]));
      CHECK(many[i].intact());
    }
  }
  return one;
}

// max |got - want| over all elements; infinity for a NaN on one side only.
inline double max_distance(const Tensor& got, const Tensor& want) {
  const std::vector<double> g = values(got), w = values(want);
  DSV_CHECK(g.size() == w.size(), "[harness] {} and {} elements", g.size(), w.size());
  double worst = 0;
  for (std::size_t e = 0; e < g.size(); ++e) {
    const double distance = detail::distance(g[e], w[e]);
    if (std::isnan(distance)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, distance);
  }
  return worst;
}

inline double max_abs(const Tensor& t) {
  double worst = 0;
  for (const double v : values(t)) worst = std::max(worst, std::fabs(v));
  return worst;
}

inline Tensor f64_like(const Tensor& t) {
  return empty(t.shape(), DType::kF64);
}

// Throws the one error that says what the cpu computes in.
template <typename Call>
void check_refuses_bf16(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    CHECK_THAT(error.what(), Contains("the cpu backend computes in f32, got BF16"));
    return;
  }
  FAIL("bf16 was accepted");
}

}  // namespace dsv::test
