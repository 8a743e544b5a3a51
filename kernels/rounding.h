// Rounding once where a conversion takes two steps.
#pragma once

#include <cmath>
#include <cstdint>

namespace dsv::kernels {

// A float that rounds on to bf16 or f16 as the double itself would: truncated, with the last bit
// set when anything was cut off (round to odd).
inline float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || std::isnan(value)) return nearest;
  auto bits = __builtin_bit_cast(std::uint32_t, nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) --bits;
  return __builtin_bit_cast(float, bits | 1u);
}

}  // namespace dsv::kernels
