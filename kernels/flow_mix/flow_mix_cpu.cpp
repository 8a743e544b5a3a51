#define HWY_TARGET_INCLUDE "flow_mix/flow_mix_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include "cpu/arguments.h"
#include "cpu/map-inl.h"
#include "cpu/parallel.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// n elements under one sigma.
void mix_flow(const float* x0, const float* noise, float sigma, float target_sign, float* x_t,
              float* target, std::int64_t n) {
  const VecF32 keep = hn::Set(F32(), 1.0f - sigma), add = hn::Set(F32(), sigma);
  const VecF32 sign = hn::Set(F32(), target_sign);
  for_each_vector(n, [=](auto at) HWY_ATTR {
    const VecF32 clean = at.load(x0), e = at.load(noise);  // read first: the outputs may alias them
    at.store(hn::MulAdd(keep, clean, hn::Mul(add, e)), x_t);
    at.store(hn::Mul(sign, hn::Sub(e, clean)), target);
  });
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {

HWY_EXPORT(mix_flow);

void flow_mix(const FlowMix& args, const Stream& stream) {
  require_f32("flow_mix", {&args.x0, &args.noise, &args.sigma, &args.x_t, &args.target});
  const std::int64_t B = args.x0.dim(0), N = args.x0.dim(1);
  const float *x0 = args.x0.f32(), *noise = args.noise.f32(), *sigma = args.sigma.f32();
  float *x_t = args.x_t.f32(), *target = args.target.f32();
  parallel_for(stream, B * N, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t e = begin; e < end;) {
      const std::int64_t b = e / N, stop = std::min(end, (b + 1) * N);
      HWY_DYNAMIC_DISPATCH(mix_flow)
      (x0 + e, noise + e, sigma[b], args.target_sign, x_t + e, target + e, stop - e);
      e = stop;
    }
  });
}

}  // namespace dsv::kernels::cpu
#endif
