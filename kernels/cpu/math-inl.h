// exp of what is not positive, the logistic function, and the normal distribution, in f32: what
// softmax-free activations are made of. Polynomials are minimax fits of our own; the errors named
// here are measured over all inputs by tests/kernels/activation_test.cpp.
#if defined(DSV_KERNELS_CPU_MATH_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV_KERNELS_CPU_MATH_INL_H
#undef DSV_KERNELS_CPU_MATH_INL_H
#else
#define DSV_KERNELS_CPU_MATH_INL_H
#endif

#include "cpu/map-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

HWY_INLINE VecF32 set(float value) {
  return hn::Set(F32(), value);
}

// exp(hi + lo) for -88 ≤ hi ≤ 0 and |lo| < 0.1; what is below 2^-126 becomes 0.
HWY_INLINE VecF32 exp_not_positive(VecF32 hi, VecF32 lo) {
  const hn::RebindToUnsigned<F32> du;
  // hi + lo = n ln 2 + r with |r| ≤ ln 2 / 2. Adding `magic` rounds to the integer n and leaves the
  // exponent field n + 127 in the lowest bits; at hi = -88 it is 0, whose float is 0.
  const VecF32 magic = set(0x1.8p23f + 127);
  const VecF32 shifted = hn::MulAdd(hi, set(1.44269504f), magic);
  const VecF32 n = hn::Sub(shifted, magic);
  constexpr float kLn2Hi = 0x1.62ep-1f;  // 12 bits: n * kLn2Hi is exact
  constexpr float kLn2Lo = 0x1.0bfbe8p-15f;
  const VecF32 r = hn::Add(hn::NegMulAdd(n, set(kLn2Lo), hn::NegMulAdd(n, set(kLn2Hi), hi)), lo);
  VecF32 p = set(0.001395047546f);
  p = hn::MulAdd(p, r, set(0.00836888261323f));
  p = hn::MulAdd(p, r, set(0.0416662061156f));
  p = hn::MulAdd(p, r, set(0.166665189124f));
  p = hn::MulAdd(p, r, set(0.500000009504f));
  p = hn::MulAdd(p, r, set(1.0f));
  p = hn::MulAdd(p, r, set(1.0f));
  return hn::Mul(p, hn::BitCast(F32(), hn::ShiftLeft<23>(hn::BitCast(du, shifted))));
}

// exp(-|x|).
HWY_INLINE VecF32 exp_minus_abs(VecF32 x) {
  const VecF32 minus_abs = hn::Or(x, hn::SignBit(F32()));
  return exp_not_positive(hn::Max(minus_abs, set(-88.0f)), hn::Zero(F32()));
}

// 1 / (1 + exp(-x)), to a few ulp at both ends.
HWY_INLINE VecF32 sigmoid(VecF32 x) {
  const VecF32 e = exp_minus_abs(x);
  return hn::Div(hn::IfNegativeThenElse(x, e, set(1.0f)), hn::Add(set(1.0f), e));
}

// sigmoid(x) and 1 - sigmoid(x): neither is computed from the other.
struct Sigmoid {
  VecF32 value, complement;
};
HWY_INLINE Sigmoid sigmoid_pair(VecF32 x) {
  const VecF32 e = exp_minus_abs(x);
  const VecF32 large = hn::Div(set(1.0f), hn::Add(set(1.0f), e));
  const VecF32 small = hn::Mul(e, large);
  return {hn::IfNegativeThenElse(x, small, large), hn::IfNegativeThenElse(x, large, small)};
}

// a^2 = hi + lo, hi the rounded square.
struct Square {
  VecF32 hi, lo;
};
HWY_INLINE Square exact_square(VecF32 a) {
#if HWY_NATIVE_FMA
  const VecF32 hi = hn::Mul(a, a);
  return {hi, hn::MulSub(a, a, hi)};
#else  // by the upper half of the bits, whose square is exact
  const hn::RebindToUnsigned<F32> du;
  const VecF32 top = hn::BitCast(F32(), hn::And(hn::BitCast(du, a), hn::Set(du, 0xFFFFF000u)));
  return {hn::Mul(top, top), hn::Mul(hn::Sub(a, top), hn::Add(a, top))};
#endif
}

// The standard normal distribution: cdf(x) to a few ulp also in its lower tail, and the bell
// exp(-x^2 / 2) that comes with it.
struct Normal {
  VecF32 cdf, bell;
};
HWY_INLINE Normal normal(VecF32 x) {
  const VecF32 a = hn::Min(hn::Abs(x), set(13.25f));  // where the bell leaves the range of f32
  // x^2 / 2 rounded to f32 would be off by up to 2^-18 there, which exp multiplies.
  const Square square = exact_square(a);
  const VecF32 minus_half = set(-0.5f);
  const VecF32 bell =
      exp_not_positive(hn::Mul(square.hi, minus_half), hn::Mul(square.lo, minus_half));
  // cdf(-a) = bell(a) R(a). R falls slowly from 1/2 to 1 / (a sqrt(2 pi)); as a quotient of
  // polynomials with positive coefficients it is right to 5e-9 and loses nothing to cancellation.
  VecF32 p = set(0.00402017102746f);
  p = hn::MulAdd(p, a, set(0.0399840407611f));
  p = hn::MulAdd(p, a, set(0.181306369553f));
  p = hn::MulAdd(p, a, set(0.435685795302f));
  p = hn::MulAdd(p, a, set(0.5f));
  VecF32 q = set(0.0100769311467f);
  q = hn::MulAdd(q, a, set(0.100232508458f));
  q = hn::MulAdd(q, a, set(0.46437930571f));
  q = hn::MulAdd(q, a, set(1.19448259989f));
  q = hn::MulAdd(q, a, set(1.66925650965f));
  q = hn::MulAdd(q, a, set(1.0f));
  const VecF32 tail = hn::Mul(bell, hn::Div(p, q));
  return {hn::IfNegativeThenElse(x, tail, hn::Sub(set(1.0f), tail)), bell};
}

// x, or ±limit beyond it; NaN stays. Slopes are flat out there, and 0 * inf is avoided.
HWY_INLINE VecF32 saturate(VecF32 x, float limit) {
  const VecF32 v_limit = set(limit);
  return hn::IfThenElse(hn::Gt(hn::Abs(x), v_limit), hn::CopySign(v_limit, x), x);
}

// gelu_erf(x) = x cdf(x) and its derivative cdf(x) + x pdf(x).
HWY_INLINE VecF32 gelu_erf(VecF32 x) {
  return hn::Mul(x, normal(x).cdf);
}
HWY_INLINE VecF32 gelu_erf_slope(VecF32 x, const Normal& at_x) {
  const VecF32 clamped = saturate(x, 16.0f);
  return hn::MulAdd(hn::Mul(clamped, set(0.398942280f)), at_x.bell, at_x.cdf);
}

// gelu_tanh(x) = x sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3), since (1 + tanh u) / 2 =
// sigmoid(2u).
constexpr float kTwoSqrt2OverPi = 1.59576912f;
constexpr float kCubic = 1.59576912f * 0.044715f;
HWY_INLINE VecF32 gelu_tanh(VecF32 x) {
  const VecF32 x2 = hn::Mul(x, x);
  const VecF32 u2 = hn::Mul(x, hn::MulAdd(x2, set(kCubic), set(kTwoSqrt2OverPi)));
  return hn::Mul(x, sigmoid(u2));
}
HWY_INLINE VecF32 gelu_tanh_slope(VecF32 x) {
  const VecF32 clamped = saturate(x, 32.0f);
  const VecF32 x2 = hn::Mul(clamped, clamped);
  const VecF32 u2 = hn::Mul(clamped, hn::MulAdd(x2, set(kCubic), set(kTwoSqrt2OverPi)));
  const VecF32 x_du2 = hn::Mul(clamped, hn::MulAdd(x2, set(3 * kCubic), set(kTwoSqrt2OverPi)));
  const Sigmoid s = sigmoid_pair(u2);
  return hn::MulAdd(x_du2, hn::Mul(s.value, s.complement), s.value);
}

HWY_INLINE VecF32 silu(VecF32 x) {
  return hn::Mul(x, sigmoid(x));
}
HWY_INLINE VecF32 silu_slope(VecF32 x) {
  const Sigmoid s = sigmoid_pair(x);
  return hn::Mul(s.value, hn::MulAdd(x, s.complement, set(1.0f)));
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
