// Element types and their safetensors names.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dsv {

enum class DType : std::uint8_t { kF32, kBF16, kF16, kF64, kI64, kI32, kU32, kU8 };

constexpr std::int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
    case DType::kU32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

// "F32", "BF16", … as safetensors spells them.
std::string to_string(DType dtype);
std::optional<DType> parse_dtype(std::string_view safetensors_name);

// bfloat16 as bits; conversion rounds to nearest even and keeps NaN a NaN.
constexpr std::uint16_t bf16_from_f32(float value) {
  const auto bits = __builtin_bit_cast(std::uint32_t, value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
constexpr float f32_from_bf16(std::uint16_t bits) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
}
// IEEE half precision, round to nearest even.
std::uint16_t f16_from_f32(float value);
float f32_from_f16(std::uint16_t bits);

}  // namespace dsv
