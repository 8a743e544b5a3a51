// Logarithm and circle for Box-Muller, from IEEE additions, multiplications, and one division
// alone: every processor, vector width, and C library gives the same bits, which libm does not
// promise. Polynomials are minimax fits of our own. Needs code that is not contracted to fused
// multiply-adds.
#pragma once

#include <array>
#include <cstdint>

namespace dsv {

namespace box_muller {

// log(u), u in (0, 1) and normal, to 5e-16 of itself: u = m 2^e with m in [0.707, 1.414),
// s = (m - 1) / (m + 1), log m = 2 s + s^3 Q(s^2).
inline constexpr std::uint64_t kLowestM = 0x3fe6a09e00000000u;  // bits of 0.7071
inline constexpr std::uint64_t kOne = 0x3ff0000000000000u;
inline constexpr double kLn2Hi = 0x1.62e42fee00000p-1;  // 33 bits: exact times e
inline constexpr double kLn2Lo = 0x1.a39ef35793c76p-33;
inline constexpr std::array<double, 6> kLog = {0x1.5555555553938p-1, 0x1.999999a29fcb3p-2,
                                               0x1.2492416f27441p-2, 0x1.c7227d2f0a4cdp-3,
                                               0x1.732b770c5e25cp-3, 0x1.5880194d18ce4p-3};
// sin(2 pi r) = r Sin(r^2) and cos(2 pi r) = 1 + r^2 Cos(r^2) for |r| ≤ 1/8, to 6e-17.
inline constexpr std::array<double, 7> kSin = {
    0x1.921fb54442d18p+2, -0x1.4abbce625be41p+5, 0x1.466bc677586ffp+6, -0x1.32d2cce2d5248p+6,
    0x1.50782fca2611dp+5, -0x1.e300638e06009p+3, 0x1.e3eecf3d81467p+1};
inline constexpr std::array<double, 6> kCos = {-0x1.3bd3cc9be45a5p+4, 0x1.03c1f081b14c5p+6,
                                               -0x1.55d3c7dcb6624p+6, 0x1.e1f4fbfc5ccc3p+5,
                                               -0x1.a6ca00b9caae4p+4, 0x1.f3ef4c97cfa9bp+2};
// Added to a small number, leaves the nearest integer in the lowest bits.
inline constexpr double kMagic = 0x1.8p52;

// c[0] + x (c[1] + x (…)).
template <std::size_t n>
constexpr double polynomial(double x, const std::array<double, n>& c) {
  double sum = c[n - 1];
  for (std::size_t i = n - 1; i-- > 0;) sum = sum * x + c[i];
  return sum;
}

}  // namespace box_muller

// Device code can refer to local copies of the coefficients only, so the functions take some.

constexpr double log_of_uniform(double u) {
  using namespace box_muller;
  constexpr auto kCoefficients = kLog;
  const std::uint64_t shifted = __builtin_bit_cast(std::uint64_t, u) + (kOne - kLowestM);
  const auto e = static_cast<double>(static_cast<std::int64_t>(shifted >> 52) - 1023);
  const double m = __builtin_bit_cast(double, (shifted & 0xfffffffffffffu) + kLowestM);
  const double s = (m - 1) / (m + 1), s2 = s * s;
  return e * kLn2Hi + (2 * s + (s * s2 * polynomial(s2, kCoefficients) + e * kLn2Lo));
}

// {cos, sin} of 2 pi u, u in [0, 1] with at most 24 bits after the point.
constexpr std::array<double, 2> circle_of_uniform(double u) {
  using namespace box_muller;
  constexpr auto kSinCoefficients = kSin;
  constexpr auto kCosCoefficients = kCos;
  const double shifted = 4 * u + kMagic;
  const auto quarter = __builtin_bit_cast(std::uint64_t, shifted) & 3;
  const double r = u - 0.25 * (shifted - kMagic), r2 = r * r;
  const double sin = r * polynomial(r2, kSinCoefficients);
  const double cos = 1 + r2 * polynomial(r2, kCosCoefficients);
  const bool odd = (quarter & 1) != 0;
  const auto negated_if = [](double x, std::uint64_t condition) {
    return __builtin_bit_cast(double, __builtin_bit_cast(std::uint64_t, x) ^ (condition << 63));
  };
  return {negated_if(odd ? sin : cos, ((quarter + 1) >> 1) & 1),
          negated_if(odd ? cos : sin, quarter >> 1)};
}

}  // namespace dsv
