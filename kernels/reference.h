// What the reference fillings are written with: elements of any dtype read and written as double.
#pragma once

#include <array>
#include <cstdint>

#include "dsv/tensor/tensor.h"
#include "rounding.h"

namespace dsv::kernels::reference {

// One element: reads as double, rounds once when assigned to.
class Element {
 public:
  Element(void* data, DType dtype, std::int64_t offset)
      : data_(data), dtype_(dtype), offset_(offset) {}

  operator double() const {
    switch (dtype_) {
      case DType::kF32: return as<float>();
      case DType::kF64: return as<double>();
      case DType::kBF16: return f32_from_bf16(as<std::uint16_t>());
      case DType::kF16: return f32_from_f16(as<std::uint16_t>());
      case DType::kI32: return as<std::int32_t>();
      default: break;
    }
    throw_error(ExitCode::kInternal, "[reference] cannot read an element of dtype {}", dtype_);
  }
  const Element& operator=(double value) const {
    switch (dtype_) {
      case DType::kF32: as<float>() = static_cast<float>(value); return *this;
      case DType::kF64: as<double>() = value; return *this;
      case DType::kBF16: as<std::uint16_t>() = bf16_from_f32(round_to_odd(value)); return *this;
      case DType::kF16: as<std::uint16_t>() = f16_from_f32(round_to_odd(value)); return *this;
      default: break;
    }
    throw_error(ExitCode::kInternal, "[reference] cannot write an element of dtype {}", dtype_);
  }
  const Element& operator=(const Element& other) const {
    return *this = static_cast<double>(other);
  }
  const Element& operator+=(double value) const { return *this = static_cast<double>(*this) + value; }

 private:
  template <typename T>
  T& as() const {
    return static_cast<T*>(data_)[offset_];
  }
  void* data_;
  DType dtype_;
  std::int64_t offset_;
};

// A strided tensor seen as elements: x(b, s, c). An undefined tensor is false and must not be read.
class View {
 public:
  explicit View(const Tensor& tensor)
      : data_(tensor.raw()), dtype_(tensor.dtype()), num_dims_(tensor.num_dims()),
        defined_(tensor.defined()) {
    for (int d = 0; d < num_dims_; ++d) strides_[static_cast<std::size_t>(d)] = tensor.stride(d);
  }
  explicit operator bool() const { return defined_; }

  template <typename... Index>
  Element operator()(Index... index) const {
    DSV_CHECK(num_dims_ == static_cast<int>(sizeof...(index)),
              "[reference] {} indices for {} dims", sizeof...(index), num_dims_);
    std::size_t d = 0;
    std::int64_t offset = 0;
    ((offset += static_cast<std::int64_t>(index) * strides_[d++]), ...);
    return {data_, dtype_, offset};
  }

 private:
  void* data_;
  DType dtype_;
  int num_dims_;
  bool defined_;
  std::array<std::int64_t, Shape::kMaxDims> strides_{};
};

// All elements of a contiguous tensor in one dimension.
inline View flat(const Tensor& tensor) { return View(tensor.reshape({-1})); }

}  // namespace dsv::kernels::reference
