#include "reduce_in_order.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

namespace dsv::comm {
namespace {

struct Sum {
  template <typename T>
  T operator()(T a, T b) const {
    // Wraps instead of overflowing: signed overflow is undefined, and ranks must agree.
    if constexpr (std::is_integral_v<T>) {
      using U = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    } else {
      return a + b;
    }
  }
};

template <typename T>
bool is_nan(T x) {
  if constexpr (std::is_floating_point_v<T>) return std::isnan(x);
  return false;
}

struct Min {
  template <typename T>
  T operator()(T a, T b) const {
    return b < a || is_nan(b) ? b : a;
  }
};

struct Max {
  template <typename T>
  T operator()(T a, T b) const {
    return b > a || is_nan(b) ? b : a;
  }
};

// A tile of accumulators stays in L1 while the parts stream through; it is written once, after all
// parts were read, so out may be one of them.
constexpr std::int64_t kTile = 1024;

template <typename T, typename Op>
void reduce(std::span<const std::byte* const> parts, std::byte* out, std::int64_t n, Op op) {
  std::array<T, kTile> sum;
  for (std::int64_t begin = 0; begin < n; begin += kTile) {
    const std::int64_t m = std::min(kTile, n - begin);
    const T* first = reinterpret_cast<const T*>(parts[0]) + begin;
    std::copy(first, first + m, sum.begin());
    for (std::size_t p = 1; p < parts.size(); ++p) {
      const T* x = reinterpret_cast<const T*>(parts[p]) + begin;
      for (std::int64_t i = 0; i < m; ++i) {
        sum[static_cast<std::size_t>(i)] = op(sum[static_cast<std::size_t>(i)], x[i]);
      }
    }
    std::copy(sum.begin(), sum.begin() + m, reinterpret_cast<T*>(out) + begin);
  }
}

template <typename T>
void reduce(std::span<const std::byte* const> parts, std::byte* out, std::int64_t n, ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum: return reduce<T>(parts, out, n, Sum{});
    case ReduceOp::kMin: return reduce<T>(parts, out, n, Min{});
    case ReduceOp::kMax: return reduce<T>(parts, out, n, Max{});
  }
}

}  // namespace

bool is_reducible(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kI32 ||
         dtype == DType::kI64 || dtype == DType::kU32;
}

void reduce_in_order(std::span<const std::byte* const> parts, std::byte* out,
                     std::int64_t num_elements, DType dtype, ReduceOp op) {
  switch (dtype) {
    case DType::kF32: return reduce<float>(parts, out, num_elements, op);
    case DType::kF64: return reduce<double>(parts, out, num_elements, op);
    case DType::kI32: return reduce<std::int32_t>(parts, out, num_elements, op);
    case DType::kI64: return reduce<std::int64_t>(parts, out, num_elements, op);
    case DType::kU32: return reduce<std::uint32_t>(parts, out, num_elements, op);
    default: DSV_CHECK(false, "[comm] no reduction for dtype {}", dtype);
  }
}

}  // namespace dsv::comm
