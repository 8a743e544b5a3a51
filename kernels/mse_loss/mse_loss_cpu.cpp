#define HWY_TARGET_INCLUDE "mse_loss/mse_loss_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include "cpu/map-inl.h"
#include "cpu/parallel.h"
#include "cpu/row_chunks.h"
#include "cpu/scratch.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// sum (pred - target)^2 of n elements in f64.
double squared_error(const float* pred, const float* target, std::int64_t n) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> narrow;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto sum0 = hn::Zero(d), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  const auto error = [=](std::int64_t i) HWY_ATTR {
    return hn::Sub(hn::PromoteTo(d, hn::LoadU(narrow, pred + i)),
                   hn::PromoteTo(d, hn::LoadU(narrow, target + i)));
  };
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    const auto e0 = error(i), e1 = error(i + lanes), e2 = error(i + 2 * lanes),
               e3 = error(i + 3 * lanes);
    sum0 = hn::MulAdd(e0, e0, sum0);
    sum1 = hn::MulAdd(e1, e1, sum1);
    sum2 = hn::MulAdd(e2, e2, sum2);
    sum3 = hn::MulAdd(e3, e3, sum3);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
  for (; i < n; ++i) {
    const double e = static_cast<double>(pred[i]) - static_cast<double>(target[i]);
    sum += e * e;
  }
  return sum;
}

void scaled_error(const float* pred, const float* target, float factor, float* dpred,
                  std::int64_t n) {
  const VecF32 v_factor = hn::Set(F32(), factor);
  for_each_vector(n, [=](auto at) HWY_ATTR {
    at.store(hn::Mul(v_factor, hn::Sub(at.load(pred), at.load(target))), dpred);
  });
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {

HWY_EXPORT(squared_error);
HWY_EXPORT(scaled_error);

void mse_loss_forward(const MseLossForward& args, const Stream& stream) {
  require_f32("mse_loss", {&args.pred, &args.target, &args.weight, &args.loss});
  const std::int64_t B = args.pred.dim(0), N = args.pred.dim(1);
  const float *pred = args.pred.f32(), *target = args.target.f32(), *weight = args.weight.f32();
  const std::int64_t num_chunks = (N + kElementGrain - 1) / kElementGrain;
  double* const partials = scratch<double>(B * num_chunks);
  parallel_for(stream, B * num_chunks, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t b = chunk / num_chunks, n = chunk % num_chunks * kElementGrain;
      partials[chunk] = HWY_DYNAMIC_DISPATCH(squared_error)(pred + b * args.pred.stride(0) + n,
                                                            target + b * args.target.stride(0) + n,
                                                            std::min(kElementGrain, N - n));
    }
  });
  for (std::int64_t b = 0; b < B; ++b) {
    double sum = 0;
    for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk)
      sum += partials[b * num_chunks + chunk];
    const double w = weight != nullptr ? static_cast<double>(weight[b]) : 1.0;
    args.loss.f32()[b] = static_cast<float>(w * sum / static_cast<double>(N));
  }
}

void mse_loss_backward(const MseLossBackward& args, const Stream& stream) {
  require_f32("mse_loss", {&args.pred, &args.target, &args.weight, &args.dpred});
  const std::int64_t B = args.pred.dim(0), N = args.pred.dim(1);
  const float *pred = args.pred.f32(), *target = args.target.f32(), *weight = args.weight.f32();
  float* dpred = args.dpred.f32();
  parallel_for(stream, B * N, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t e = begin; e < end;) {
      const std::int64_t b = e / N, n = e % N, stop = std::min(end, (b + 1) * N);
      const double w = weight != nullptr ? static_cast<double>(weight[b]) : 1.0;
      const double factor = static_cast<double>(args.grad_scale) * w * 2 / static_cast<double>(N);
      HWY_DYNAMIC_DISPATCH(scaled_error)
      (pred + b * args.pred.stride(0) + n, target + b * args.target.stride(0) + n,
       static_cast<float>(factor), dpred + b * args.dpred.stride(0) + n, stop - e);
      e = stop;
    }
  });
}

}  // namespace dsv::kernels::cpu
#endif
