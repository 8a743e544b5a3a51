// Each token's cosines and sines are spread once, (c0, c0, c1, c1, …) and (-s0, s0, -s1, s1, …),
// and serve all its heads: y = x * c + swap_pairs(x) * s.
#define HWY_TARGET_INCLUDE "rope/rope_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include <algorithm>

#include "cpu/map-inl.h"
#include "cpu/parallel.h"
#include "cpu/row_chunks.h"
#include "tables/entries.h"

#ifndef DSV_ROPE_TYPES
#define DSV_ROPE_TYPES
namespace dsv::kernels::cpu {
// The heads of one token.
struct RopeToken {
  const float *x, *cos, *sin;
  float* y;
  std::int64_t num_heads, D, x_stride, y_stride;  // strides of H
  bool inverse;
};
}  // namespace dsv::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// Rotates as many elements from `i` on as whole vectors of this tag reach; returns where it
// stopped.
template <typename D>
HWY_INLINE std::int64_t rotate(D d, const float* x, const float* cos, const float* sin, float* y,
                               std::int64_t i, std::int64_t n) {
  if constexpr (hn::MaxLanes(D()) < 2) return i;  // a portable vector of one lane holds no pair
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    const auto crossed = hn::Mul(hn::Reverse2(d, v), hn::LoadU(d, sin + i));
    hn::StoreU(hn::MulAdd(v, hn::LoadU(d, cos + i), crossed), d, y + i);
  }
  return i;
}

void rope_token(const RopeToken& token) {
  constexpr std::int64_t kBlock = 256;
  HWY_ALIGN float cos[kBlock];
  HWY_ALIGN float sin[kBlock];
  const float sign = token.inverse ? -1.0f : 1.0f;
  for (std::int64_t begin = 0; begin < token.D; begin += kBlock) {
    const std::int64_t n = std::min(kBlock, token.D - begin);
    for (std::int64_t i = 0; i < n / 2; ++i) {
      cos[2 * i] = cos[2 * i + 1] = token.cos[begin / 2 + i];
      const float s = sign * token.sin[begin / 2 + i];
      sin[2 * i] = -s;
      sin[2 * i + 1] = s;
    }
    for (std::int64_t h = 0; h < token.num_heads; ++h) {
      const float* x = token.x + h * token.x_stride + begin;
      float* y = token.y + h * token.y_stride + begin;
      std::int64_t i = rotate(F32(), x, cos, sin, y, 0, n);
      i = rotate(hn::CappedTag<float, 4>(), x, cos, sin, y, i, n);
      for (; i < n; i += 2) {
        const float even = x[i], odd = x[i + 1];
        y[i] = even * cos[i] + odd * sin[i];
        y[i + 1] = odd * cos[i + 1] + even * sin[i + 1];
      }
    }
  }
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {

HWY_EXPORT(rope_token);

void rope(const Rope& args, const Stream& stream) {
  require_f32("rope", {&args.x, &args.y, &args.cos, &args.sin});
  const Tensor &x = args.x, &y = args.y;
  const std::int64_t B = x.dim(0), S = x.dim(1), H = x.dim(2), D = x.dim(3);
  const float *x_data = x.f32(), *cos = args.cos.f32(), *sin = args.sin.f32();
  float* y_data = y.f32();
  parallel_for(stream, B * S, row_grain(H * D), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t token = begin; token < end; ++token) {
      const std::int64_t b = token / S, s = token % S;
      HWY_DYNAMIC_DISPATCH(rope_token)
      ({.x = x_data + b * x.stride(0) + s * x.stride(1),
        .cos = cos + s * (D / 2),
        .sin = sin + s * (D / 2),
        .y = y_data + b * y.stride(0) + s * y.stride(1),
        .num_heads = H,
        .D = D,
        .x_stride = x.stride(2),
        .y_stride = y.stride(2),
        .inverse = args.inverse});
    }
  });
}

}  // namespace dsv::kernels::cpu
#endif
