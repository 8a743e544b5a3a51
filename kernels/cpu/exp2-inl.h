// 2^x for softmax, in f32.
#if defined(DSV_KERNELS_CPU_EXP2_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV_KERNELS_CPU_EXP2_INL_H
#undef DSV_KERNELS_CPU_EXP2_INL_H
#else
#define DSV_KERNELS_CPU_EXP2_INL_H
#endif

#include "cpu/map-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// 2^x for x < 128, off by less than 1.1 * 2^-24 relative (with fused multiply-adds); 2^0 is 1 and
// everything below 2^-126.5, -inf included, is 0 exactly.
HWY_INLINE VecF32 exp2_of(VecF32 x) {
  const F32 d;
  const hn::RebindToUnsigned<F32> du;
  // x = n + r with |r| ≤ 1/2. Adding `magic` rounds to the integer n and leaves the exponent field
  // n + 127 in the lowest bits; at n = -127 it is 0, whose float is 0.
  const VecF32 magic = hn::Set(d, 0x1.8p23f + 127);
  x = hn::Max(x, hn::Set(d, -127.0f));
  const VecF32 shifted = hn::Add(x, magic);
  const VecF32 r = hn::Sub(x, hn::Sub(shifted, magic));
  // Minimax in relative error (3e-9) among polynomials that are 1 at 0; our own fit.
  VecF32 p = hn::Set(d, 0x1.416b5ep-13f);
  p = hn::MulAdd(p, r, hn::Set(d, 0x1.5f083p-10f));
  p = hn::MulAdd(p, r, hn::Set(d, 0x1.3b2dep-7f));
  p = hn::MulAdd(p, r, hn::Set(d, 0x1.c6af7cp-5f));
  p = hn::MulAdd(p, r, hn::Set(d, 0x1.ebfbdcp-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 0x1.62e43p-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(du, shifted))));
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
