#define HWY_TARGET_INCLUDE "geglu/geglu_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include "cpu/math-inl.h"
#include "cpu/parallel.h"
#include "cpu/row_chunks.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// Rows of two halves are short streams: the hardware notices the next row too late.
HWY_INLINE void prefetch_next_row(const float* x, std::int64_t F) {
  __builtin_prefetch(x + 2 * F);
  __builtin_prefetch(x + 3 * F);
}

void geglu_rows(const float* x, float* y, std::int64_t rows, std::int64_t F) {
  for (std::int64_t r = 0; r < rows; ++r, x += 2 * F, y += F) {
    for_each_vector(F, [=](auto at) HWY_ATTR {
      prefetch_next_row(x + at.i, F);
      at.store(hn::Mul(at.load(x), gelu_erf(at.load(x + F))), y);
    });
  }
}

void geglu_rows_backward(const float* x, const float* dy, float* dx, std::int64_t rows,
                         std::int64_t F) {
  for (std::int64_t r = 0; r < rows; ++r, x += 2 * F, dy += F, dx += 2 * F) {
    for_each_vector(F, [=](auto at) HWY_ATTR {
      prefetch_next_row(x + at.i, F);
      const VecF32 h = at.load(x), g = at.load(x + F), d = at.load(dy);  // dx may alias x
      const Normal normal_g = normal(g);
      at.store(hn::Mul(d, hn::Mul(g, normal_g.cdf)), dx);
      at.store(hn::Mul(hn::Mul(d, h), gelu_erf_slope(g, normal_g)), dx + F);
    });
  }
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {

HWY_EXPORT(geglu_rows);
HWY_EXPORT(geglu_rows_backward);

void geglu_forward(const GegluForward& args, const Stream& stream) {
  require_f32("geglu", {&args.x, &args.y});
  const std::int64_t rows = args.y.dim(0), F = args.y.dim(1);
  const float* x = args.x.f32();
  float* y = args.y.f32();
  parallel_for(stream, rows, row_grain(F), [&](std::int64_t begin, std::int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(geglu_rows)(x + begin * 2 * F, y + begin * F, end - begin, F);
  });
}

void geglu_backward(const GegluBackward& args, const Stream& stream) {
  require_f32("geglu", {&args.x, &args.dy, &args.dx});
  const std::int64_t rows = args.dy.dim(0), F = args.dy.dim(1);
  const float *x = args.x.f32(), *dy = args.dy.f32();
  float* dx = args.dx.f32();
  parallel_for(stream, rows, row_grain(F), [&](std::int64_t begin, std::int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(geglu_rows_backward)
    (x + begin * 2 * F, dy + begin * F, dx + begin * 2 * F, end - begin, F);
  });
}

}  // namespace dsv::kernels::cpu
#endif
