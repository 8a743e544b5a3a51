#define HWY_TARGET_INCLUDE "reduce/reduce_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include <cmath>

#include "cpu/arguments.h"
#include "cpu/map-inl.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// sum x^2 of n elements in f64. No sum of finite f32 squares overflows f64, so the result is finite
// exactly when every element is.
double squares(const float* x, std::int64_t n) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> narrow;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto sum0 = hn::Zero(d), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  const auto load = [=](std::int64_t i)
                        HWY_ATTR { return hn::PromoteTo(d, hn::LoadU(narrow, x + i)); };
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    const auto x0 = load(i), x1 = load(i + lanes), x2 = load(i + 2 * lanes),
               x3 = load(i + 3 * lanes);
    sum0 = hn::MulAdd(x0, x0, sum0);
    sum1 = hn::MulAdd(x1, x1, sum1);
    sum2 = hn::MulAdd(x2, x2, sum2);
    sum3 = hn::MulAdd(x3, x3, sum3);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {
namespace {

HWY_EXPORT(squares);

struct Partial {
  double sum = 0, non_finite = 0;
};

Partial chunk_partial(const float* x, std::int64_t n) {
  const double sum = HWY_DYNAMIC_DISPATCH(squares)(x, n);
  if (std::isfinite(sum)) return {sum, 0};
  Partial partial;  // rare: something overflowed upstream
  for (std::int64_t i = 0; i < n; ++i) {
    const double value = static_cast<double>(x[i]);
    if (std::isfinite(value))
      partial.sum += value * value;
    else
      partial.non_finite += 1;
  }
  return partial;
}

}  // namespace

void sum_squares(const SumSquares& args, const Stream& stream) {
  require_f32("sum_squares", {&args.x});
  const std::int64_t n = args.x.num_elements();
  const float* x = args.x.f32();
  const std::int64_t num_chunks = (n + kElementGrain - 1) / kElementGrain;
  Partial* const partials = scratch<Partial>(num_chunks);
  parallel_for(stream, num_chunks, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t first = chunk * kElementGrain;
      partials[chunk] = chunk_partial(x + first, std::min(kElementGrain, n - first));
    }
  });
  Partial total;
  for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    total.sum += partials[chunk].sum;
    total.non_finite += partials[chunk].non_finite;
  }
  args.out.f64()[0] = total.sum;
  args.out.f64()[1] = total.non_finite;
}

}  // namespace dsv::kernels::cpu
#endif
