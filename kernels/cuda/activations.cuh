// The logistic function, the normal distribution, and the activations made of them, as exact as
// what they are stored as: for T = float a few roundings, by the formulas of cpu/math-inl.h; for
// T = bf16 2^-14 of the value, with the processor's approximate exponential and reciprocal.
#pragma once

#include <cuda_bf16.h>

namespace dsv::kernels::cuda {

namespace math {

constexpr float kLog2E = 1.44269504f;

// 2^x and 1/x to 2^-22; results below 2^-126 are 0.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// x, or ±limit beyond it; NaN stays.
__device__ inline float saturate(float x, float limit) {
  return fabsf(x) > limit ? copysignf(limit, x) : x;
}

// exp(hi + lo) for -88 ≤ hi ≤ 0 and |lo| < 0.1; what is below 2^-126 becomes 0.
__device__ inline float exp_not_positive(float hi, float lo) {
  // hi + lo = n ln 2 + r with |r| ≤ ln 2 / 2. Adding `magic` rounds to the integer n and leaves the
  // exponent field n + 127 in the lowest bits; at hi = -88 it is 0, whose float is 0.
  constexpr float kMagic = 0x1.8p23f + 127;
  const float shifted = fmaf(hi, kLog2E, kMagic), n = shifted - kMagic;
  constexpr float kLn2Hi = 0x1.62ep-1f;  // 12 bits: n * kLn2Hi is exact
  constexpr float kLn2Lo = 0x1.0bfbe8p-15f;
  const float r = fmaf(-n, kLn2Lo, fmaf(-n, kLn2Hi, hi)) + lo;
  float p = 0.001395047546f;
  p = fmaf(p, r, 0.00836888261323f);
  p = fmaf(p, r, 0.0416662061156f);
  p = fmaf(p, r, 0.166665189124f);
  p = fmaf(p, r, 0.500000009504f);
  p = fmaf(p, r, 1.0f);
  p = fmaf(p, r, 1.0f);
  return __fmul_rn(p, __int_as_float(__float_as_int(shifted) << 23));
}
__device__ inline float exp_minus_abs(float x) {
  return exp_not_positive(fmaxf(-fabsf(x), -88.0f), 0.0f);
}

}  // namespace math

// 1 / (1 + exp(-x)).
template <typename T>
__device__ inline float sigmoid(float x) {
  if constexpr (sizeof(T) == 4) {
    const float e = math::exp_minus_abs(x);
    return (x < 0 ? e : 1.0f) / (1.0f + e);
  } else {  // an exponential of infinity is right, too: its reciprocal is 0
    return math::reciprocal_approx(1.0f + math::exp2_approx(-math::kLog2E * x));
  }
}

// sigmoid(x) and its derivative sigmoid(x) sigmoid(-x): neither sigmoid is 1 minus the other.
struct Sigmoid {
  float value, slope;
};
template <typename T>
__device__ inline Sigmoid sigmoid_and_slope(float x) {
  float e, large;  // exp(-|x|), sigmoid(|x|)
  if constexpr (sizeof(T) == 4) {
    e = math::exp_minus_abs(x);
    large = 1.0f / (1.0f + e);
  } else {
    e = math::exp2_approx(-math::kLog2E * fabsf(x));
    large = math::reciprocal_approx(1.0f + e);
  }
  const float small = e * large;
  return {x < 0 ? small : large, small * large};
}

// The standard normal distribution: cdf(x), its lower tail not computed from the upper one, and the
// bell exp(-x^2 / 2) that comes with it.
struct Normal {
  float cdf, bell;
};
template <typename T>
__device__ inline Normal normal(float x) {
  float bell, ratio;  // cdf(-|x|) = bell * ratio
  if constexpr (sizeof(T) == 4) {
    const float a = fminf(fabsf(x), 13.25f);  // where the bell leaves the range of f32
    // x^2 / 2 rounded to f32 would be off by up to 2^-18 there, which exp multiplies.
    const float square = __fmul_rn(a, a), rest = fmaf(a, a, -square);
    bell = math::exp_not_positive(-0.5f * square, __fmul_rn(-0.5f, rest));
    float p = 0.00402017102746f;
    p = fmaf(p, a, 0.0399840407611f);
    p = fmaf(p, a, 0.181306369553f);
    p = fmaf(p, a, 0.435685795302f);
    p = fmaf(p, a, 0.5f);
    float q = 0.0100769311467f;
    q = fmaf(q, a, 0.100232508458f);
    q = fmaf(q, a, 0.46437930571f);
    q = fmaf(q, a, 1.19448259989f);
    q = fmaf(q, a, 1.66925650965f);
    q = fmaf(q, a, 1.0f);
    ratio = p / q;
  } else {
    // A polynomial in t = 1 / (1 + 0.38 |x|), a minimax fit of our own, right to 4e-5 of itself.
    bell = math::exp2_approx(x * x * (-0.5f * math::kLog2E));
    const float t = math::reciprocal_approx(fmaf(fabsf(x), 0.38f, 1.0f));
    ratio = -0.0899281726f;
    ratio = fmaf(ratio, t, 0.188876083f);
    ratio = fmaf(ratio, t, 0.0919800324f);
    ratio = fmaf(ratio, t, 0.157829392f);
    ratio = fmaf(ratio, t, 0.151225147f);
    ratio *= t;
  }
  const float tail = __fmul_rn(bell, ratio);
  return {x < 0 ? tail : 1.0f - tail, bell};
}

// gelu_erf(x) = x cdf(x) and its derivative cdf(x) + x pdf(x).
template <typename T>
__device__ inline float gelu_erf(float x) {
  return x * normal<T>(x).cdf;
}
template <typename T>
__device__ inline float gelu_erf_slope(float x, const Normal& at_x) {
  // In f32 the bell ends at a small number, not at 0.
  const float bounded = sizeof(T) == 4 ? math::saturate(x, 16.0f) : x;
  return fmaf(bounded * 0.398942280f, at_x.bell, at_x.cdf);
}

// gelu_tanh(x) = x sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3), since (1 + tanh u) / 2 =
// sigmoid(2u) = sigmoid(kTwoSqrt2OverPi x + kCubic x^3).
constexpr float kTwoSqrt2OverPi = 1.59576912f;
constexpr float kCubic = 1.59576912f * 0.044715f;
template <typename T>
__device__ inline float gelu_tanh(float x) {
  return x * sigmoid<T>(x * fmaf(x * x, kCubic, kTwoSqrt2OverPi));
}
template <typename T>
__device__ inline float gelu_tanh_slope(float x) {
  const float bounded = math::saturate(x, 32.0f);  // flat beyond, and 0 * inf is avoided
  const float x2 = bounded * bounded;
  const float x_du2 = bounded * fmaf(x2, 3 * kCubic, kTwoSqrt2OverPi);
  const Sigmoid s = sigmoid_and_slope<T>(bounded * fmaf(x2, kCubic, kTwoSqrt2OverPi));
  return fmaf(x_du2, s.slope, s.value);
}

template <typename T>
__device__ inline float silu(float x) {
  return x * sigmoid<T>(x);
}
template <typename T>
__device__ inline float silu_slope(float x) {
  const Sigmoid s = sigmoid_and_slope<T>(x);
  return fmaf(x, s.slope, s.value);
}

}  // namespace dsv::kernels::cuda
