#include "dsv/tensor/dtype.h"

#include <cmath>

namespace dsv {
namespace {
struct Name {
  DType dtype;
  const char* text;
};
constexpr Name kNames[] = {{DType::kF32, "F32"}, {DType::kBF16, "BF16"}, {DType::kF16, "F16"},
                           {DType::kF64, "F64"}, {DType::kI64, "I64"},   {DType::kI32, "I32"},
                           {DType::kU32, "U32"}, {DType::kU8, "U8"}};
}  // namespace

std::string to_string(DType dtype) {
  for (const Name& n : kNames) {
    if (n.dtype == dtype) return n.text;
  }
  return "?";
}

std::optional<DType> parse_dtype(std::string_view name) {
  for (const Name& n : kNames) {
    if (name == n.text) return n.dtype;
  }
  return std::nullopt;
}

float f32_from_f16(std::uint16_t bits) {
  const int sign = bits >> 15, exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  float magnitude = 0;
  if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  } else if (exponent == 31) {
    magnitude = mantissa != 0 ? NAN : INFINITY;
  } else {
    magnitude = std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  }
  return sign != 0 ? -magnitude : magnitude;
}

std::uint16_t f16_from_f32(float value) {
  const auto bits = __builtin_bit_cast(std::uint32_t, value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const float a = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00u;
  if (a >= 65520.0f) return sign | 0x7c00u;  // rounds past the largest half
  if (a < 0x1p-14f) {                        // subnormal: a multiple of 2^-24
    return sign | static_cast<std::uint16_t>(std::nearbyint(std::ldexp(a, 24)));
  }
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<std::uint16_t>((rounded >> 13) - (112u << 10));
}

}  // namespace dsv
