// Dimensions of a tensor: up to 6, outermost first.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "dsv/base/check_math.h"

namespace dsv {

class Shape {
 public:
  static constexpr int kMaxDims = 6;

  Shape() = default;  // zero dims, one element: a scalar
  Shape(std::initializer_list<std::int64_t> dims) {
    for (std::int64_t d : dims) push_back(d);
  }

  int num_dims() const { return num_dims_; }
  // Negative i counts from the end.
  std::int64_t operator[](int i) const { return dims_[index(i)]; }
  std::int64_t& operator[](int i) { return dims_[index(i)]; }
  void push_back(std::int64_t d) {
    DSV_CHECK(num_dims_ < kMaxDims, "[shape] expected at most {} dims", kMaxDims);
    DSV_CHECK(d >= 0, "[shape] expected a size ≥ 0, got {}", d);
    dims_[static_cast<std::size_t>(num_dims_++)] = d;
  }
  std::int64_t num_elements() const {
    std::int64_t n = 1;
    for (int i = 0; i < num_dims_; ++i) n = checked_mul(n, dims_[static_cast<std::size_t>(i)]);
    return n;
  }
  const std::int64_t* begin() const { return dims_.data(); }
  const std::int64_t* end() const { return dims_.data() + num_dims_; }
  bool operator==(const Shape& other) const {
    if (num_dims_ != other.num_dims_) return false;
    for (int i = 0; i < num_dims_; ++i) {
      if ((*this)[i] != other[i]) return false;
    }
    return true;
  }

 private:
  std::size_t index(int i) const {
    const int at = i < 0 ? i + num_dims_ : i;
    DSV_CHECK(at >= 0 && at < num_dims_, "[shape] dim {} of a shape with {} dims", i, num_dims_);
    return static_cast<std::size_t>(at);
  }
  std::array<std::int64_t, kMaxDims> dims_{};
  int num_dims_ = 0;
};

std::string to_string(const Shape& shape);  // "[2, 3, 4]"

}  // namespace dsv
