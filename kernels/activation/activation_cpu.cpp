#define HWY_TARGET_INCLUDE "activation/activation_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include "cpu/arguments.h"
#include "cpu/math-inl.h"
#include "cpu/parallel.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

template <typename Function>
HWY_INLINE void apply(const float* x, float* y, std::int64_t n, const Function& function) {
  for_each_vector(n, [=](auto at) HWY_ATTR { at.store(function(at.load(x)), y); });
}

void activate(Activation kind, const float* x, float* y, std::int64_t n) {
  switch (kind) {
    case Activation::kNone:
      return apply(x, y, n, [](VecF32 v) HWY_ATTR { return v; });
    case Activation::kGeluTanh:
      return apply(x, y, n, [](VecF32 v) HWY_ATTR { return gelu_tanh(v); });
    case Activation::kGeluErf:
      return apply(x, y, n, [](VecF32 v) HWY_ATTR { return gelu_erf(v); });
    case Activation::kSilu:
      return apply(x, y, n, [](VecF32 v) HWY_ATTR { return silu(v); });
  }
}

template <typename Slope>
HWY_INLINE void apply_slope(const float* x, const float* dy, float* dx, std::int64_t n,
                            const Slope& slope) {
  for_each_vector(n,
                  [=](auto at) HWY_ATTR { at.store(hn::Mul(at.load(dy), slope(at.load(x))), dx); });
}

void activate_backward(Activation kind, const float* x, const float* dy, float* dx,
                       std::int64_t n) {
  switch (kind) {
    case Activation::kNone:
      return apply_slope(x, dy, dx, n, [](VecF32) HWY_ATTR { return set(1.0f); });
    case Activation::kGeluTanh:
      return apply_slope(x, dy, dx, n, [](VecF32 v) HWY_ATTR { return gelu_tanh_slope(v); });
    case Activation::kGeluErf:
      return apply_slope(x, dy, dx, n,
                         [](VecF32 v) HWY_ATTR { return gelu_erf_slope(v, normal(v)); });
    case Activation::kSilu:
      return apply_slope(x, dy, dx, n, [](VecF32 v) HWY_ATTR { return silu_slope(v); });
  }
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {

HWY_EXPORT(activate);
HWY_EXPORT(activate_backward);

void activation_forward(const ActivationForward& args, const Stream& stream) {
  require_f32("activation", {&args.x, &args.y});
  const float* x = args.x.f32();
  float* y = args.y.f32();
  parallel_for(stream, args.x.num_elements(), kElementGrain,
               [&](std::int64_t begin, std::int64_t end, int) {
                 HWY_DYNAMIC_DISPATCH(activate)(args.kind, x + begin, y + begin, end - begin);
               });
}

void activation_backward(const ActivationBackward& args, const Stream& stream) {
  require_f32("activation", {&args.x, &args.dy, &args.dx});
  const float *x = args.x.f32(), *dy = args.dy.f32();
  float* dx = args.dx.f32();
  parallel_for(stream, args.x.num_elements(), kElementGrain,
               [&](std::int64_t begin, std::int64_t end, int) {
                 HWY_DYNAMIC_DISPATCH(activate_backward)
                 (args.kind, x + begin, dy + begin, dx + begin, end - begin);
               });
}

}  // namespace dsv::kernels::cpu
#endif
