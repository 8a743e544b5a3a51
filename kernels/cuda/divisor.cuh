// Division by a number that the host knows: one multiplication in place of a long subroutine.
#pragma once

#include <cstdint>

namespace dsv::kernels::cuda {

// Quotients of n in [0, 2^62) by d ≥ 1. With 2^l the first power of two that is not below d and
// m = floor(2^(62+l) / d) + 1, m d exceeds 2^(62+l) by at most 2^l, too little to carry n m past
// the next multiple of 2^(62+l): n / d = floor(n m / 2^(62+l)).
class Divisor {
 public:
  explicit Divisor(std::int64_t d) : divisor_(d) {
    while ((std::uint64_t{1} << shift_) < static_cast<std::uint64_t>(d)) ++shift_;
    const auto power = static_cast<unsigned __int128>(1) << (62 + shift_);
    magic_ = static_cast<std::uint64_t>(power / static_cast<std::uint64_t>(d)) + 1;
  }
  __device__ std::int64_t quotient(std::int64_t n) const {
    const std::uint64_t high = __umul64hi(static_cast<std::uint64_t>(n) << 2, magic_);
    return static_cast<std::int64_t>(high >> shift_);
  }
  __device__ std::int64_t divisor() const { return divisor_; }

 private:
  std::int64_t divisor_;
  std::uint64_t magic_ = 0;
  int shift_ = 0;
};

}  // namespace dsv::kernels::cuda
