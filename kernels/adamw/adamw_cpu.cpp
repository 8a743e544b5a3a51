#define HWY_TARGET_INCLUDE "adamw/adamw_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include <algorithm>
#include <cmath>

#include "cpu/arguments.h"
#include "cpu/map-inl.h"
#include "cpu/parallel.h"
#include "tables/entries.h"

#ifndef DSV_ADAMW_TYPES
#define DSV_ADAMW_TYPES
namespace dsv::kernels::cpu {
// The arrays from one element on, and the constants of the step, each rounded once to f32.
struct AdamWRange {
  float *param, *m, *v, *ema, *copy_f32;  // ema, copies: null when not wanted
  const float* grad;
  std::uint16_t* copy_bf16;
  float grad_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, root_scale, eps,
      shrink, ema_decay, one_minus_ema_decay;
};
}  // namespace dsv::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// The update of n elements. kEma is known to the compiler: the loop is bound by memory, and every
// array that is not wanted counts.
template <bool kEma>
HWY_INLINE void update(const AdamWRange& range, std::int64_t n) {
  const F32 d;
  const VecF32 grad_scale = hn::Set(d, range.grad_scale), beta1 = hn::Set(d, range.beta1),
               one_minus_beta1 = hn::Set(d, range.one_minus_beta1), beta2 = hn::Set(d, range.beta2),
               one_minus_beta2 = hn::Set(d, range.one_minus_beta2),
               step_size = hn::Set(d, range.step_size), root_scale = hn::Set(d, range.root_scale),
               eps = hn::Set(d, range.eps), shrink = hn::Set(d, range.shrink),
               ema_decay = hn::Set(d, range.ema_decay),
               one_minus_ema_decay = hn::Set(d, range.one_minus_ema_decay);
  float *param = range.param, *m_data = range.m, *v_data = range.v, *ema = range.ema;
  const float* grad = range.grad;
  for_each_vector(n, [=](auto at) HWY_ATTR {
    const VecF32 g = hn::Mul(at.load(grad), grad_scale);
    const VecF32 m = hn::MulAdd(beta1, at.load(m_data), hn::Mul(one_minus_beta1, g));
    const VecF32 v = hn::MulAdd(beta2, at.load(v_data), hn::Mul(hn::Mul(one_minus_beta2, g), g));
    const VecF32 root = hn::MulAdd(hn::Sqrt(v), root_scale, eps);
    const VecF32 move = hn::Div(hn::Mul(step_size, m), root);
    const VecF32 p = hn::MulSub(at.load(param), shrink, move);
    at.store(m, m_data);
    at.store(v, v_data);
    at.store(p, param);
    if constexpr (kEma) {
      at.store(hn::MulAdd(ema_decay, at.load(ema), hn::Mul(one_minus_ema_decay, p)), ema);
    }
  });
}

void adamw_update(const AdamWRange& range, std::int64_t n) {
  range.ema != nullptr ? update<true>(range, n) : update<false>(range, n);
  if (range.copy_f32 != nullptr && range.copy_f32 != range.param) {
    std::copy(range.param, range.param + n, range.copy_f32);
  }
  if (range.copy_bf16 != nullptr) {
    for (std::int64_t i = 0; i < n; ++i) range.copy_bf16[i] = bf16_from_f32(range.param[i]);
  }
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {
namespace {

HWY_EXPORT(adamw_update);

AdamWRange step_of(const AdamW& args) {
  const double correction1 = 1 - std::pow(args.beta1, static_cast<double>(args.step));
  const double correction2 = 1 - std::pow(args.beta2, static_cast<double>(args.step));
  const auto f32 = [](double value) { return static_cast<float>(value); };
  const bool bf16 = args.copy && args.copy.dtype() == DType::kBF16;
  return {.param = args.param.f32(),
          .m = args.m.f32(),
          .v = args.v.f32(),
          .ema = args.ema.f32(),
          .copy_f32 = bf16 ? nullptr : args.copy.f32(),
          .grad = args.grad.f32(),
          .copy_bf16 = bf16 ? args.copy.bf16() : nullptr,
          .grad_scale = f32(args.grad_scale),
          .beta1 = f32(args.beta1),
          .one_minus_beta1 = f32(1 - args.beta1),
          .beta2 = f32(args.beta2),
          .one_minus_beta2 = f32(1 - args.beta2),
          .step_size = f32(args.lr / correction1),
          .root_scale = f32(1 / std::sqrt(correction2)),
          .eps = f32(args.eps),
          .shrink = 1,
          .ema_decay = f32(args.ema_decay),
          .one_minus_ema_decay = f32(1 - args.ema_decay)};
}

// The part of the step that falls on elements [begin, end) of one segment, in blocks that stay in
// cache for the copy.
void update_segment(const AdamW& args, const AdamWRange& step, const AdamWSegment& segment,
                    std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kBlock = 2048;
  for (std::int64_t i = begin; i < end; i += kBlock) {
    AdamWRange range = step;
    range.shrink = static_cast<float>(1 - args.lr * static_cast<double>(segment.weight_decay));
    for (float** array : {&range.param, &range.m, &range.v, &range.ema, &range.copy_f32}) {
      if (*array != nullptr) *array += i;
    }
    range.grad += i;
    if (range.copy_bf16 != nullptr) range.copy_bf16 += i;
    HWY_DYNAMIC_DISPATCH(adamw_update)(range, std::min(kBlock, end - i));
  }
}

}  // namespace

void adamw(const AdamW& args, const Stream& stream) {
  require_f32("adamw", {&args.param, &args.grad, &args.m, &args.v, &args.ema});
  if (args.copy && args.copy.dtype() != DType::kBF16) require_f32("adamw", {&args.copy});
  std::int64_t total = 0;
  for (const AdamWSegment& segment : args.segments) total += segment.end - segment.begin;
  const AdamWRange step = step_of(args);
  // Threads share the listed elements evenly, whatever the segments' sizes.
  parallel_for(stream, total, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
    std::int64_t first = 0;  // position of the segment among all listed elements
    for (const AdamWSegment& segment : args.segments) {
      const std::int64_t size = segment.end - segment.begin;
      const std::int64_t from = std::max<std::int64_t>(begin - first, 0);
      const std::int64_t to = std::min(end - first, size);
      if (from < to) update_segment(args, step, segment, segment.begin + from, segment.begin + to);
      first += size;
    }
  });
}

}  // namespace dsv::kernels::cpu
#endif
