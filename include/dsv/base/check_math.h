// Integer arithmetic that says so when it would go wrong: sizes come from files and configurations.
#pragma once

#include <cstdint>
#include <limits>

#include "dsv/base/error.h"

namespace dsv {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) {
  return ceil_div(a, b) * b;
}

inline std::int64_t div_exact(std::int64_t a, std::int64_t b) {
  DSV_CHECK(b != 0 && a % b == 0, "expected {} to be a multiple of {}", a, b);
  return a / b;
}

// Overflow-aware forms; false leaves *out unspecified.
inline bool try_mul(std::int64_t a, std::int64_t b, std::int64_t* out) {
  return !__builtin_mul_overflow(a, b, out);
}
inline bool try_add(std::int64_t a, std::int64_t b, std::int64_t* out) {
  return !__builtin_add_overflow(a, b, out);
}
inline std::int64_t checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  DSV_CHECK(try_mul(a, b, &out), "{} * {} does not fit in 64 bits", a, b);
  return out;
}

// Conversion that must not lose value.
template <typename To, typename From>
To narrow(From value) {
  const To out = static_cast<To>(value);
  DSV_CHECK(static_cast<From>(out) == value && ((out < To{}) == (value < From{})),
            "value {} does not fit in {} bytes", value, sizeof(To));
  return out;
}

}  // namespace dsv
