// Tensor: a typed, strided view of bytes on a device. Copying a Tensor copies the view, never the
// data; a view keeps its bytes alive while it holds their owner.
#pragma once

#include <memory>

#include "dsv/tensor/device.h"
#include "dsv/tensor/dtype.h"
#include "dsv/tensor/shape.h"

namespace dsv {

class Tensor {
 public:
  Tensor() = default;
  // Contiguous view of `data`, which must hold shape.num_elements() elements; `owner` may be null
  // when somebody else guarantees the lifetime.
  Tensor(void* data, DType dtype, const Shape& shape, Device device = {},
         std::shared_ptr<void> owner = nullptr);

  bool defined() const { return data_ != nullptr || defined_empty_; }
  explicit operator bool() const { return defined(); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const Shape& shape() const { return shape_; }
  int num_dims() const { return shape_.num_dims(); }
  std::int64_t dim(int i) const { return shape_[i]; }
  std::int64_t stride(int i) const { return strides_[i]; }  // in elements
  std::int64_t num_elements() const { return shape_.num_elements(); }
  std::int64_t num_bytes() const { return num_elements() * size_of(dtype_); }
  // Product of all dims but the last.
  std::int64_t num_rows() const {
    return num_dims() == 0 ? 1 : num_elements() / std::max<std::int64_t>(1, dim(-1));
  }
  bool is_contiguous() const;

  void* raw() const { return data_; }
  // Typed pointer; checks the dtype.
  float* f32() const { return static_cast<float*>(typed(DType::kF32)); }
  double* f64() const { return static_cast<double*>(typed(DType::kF64)); }
  std::uint16_t* bf16() const { return static_cast<std::uint16_t*>(typed(DType::kBF16)); }
  std::int32_t* i32() const { return static_cast<std::int32_t*>(typed(DType::kI32)); }
  std::int64_t* i64() const { return static_cast<std::int64_t*>(typed(DType::kI64)); }
  std::uint32_t* u32() const { return static_cast<std::uint32_t*>(typed(DType::kU32)); }
  std::uint8_t* u8() const { return static_cast<std::uint8_t*>(typed(DType::kU8)); }

  // Views. reshape needs a contiguous tensor; one dim may be -1. slice keeps [begin, end) of dim d.
  // select drops dim d at position i. as_heads turns [B, S, H*D] into [B, S, H, D] (any row
  // stride).
  Tensor reshape(const Shape& shape) const;
  Tensor reshape(std::initializer_list<std::int64_t> dims) const;
  Tensor slice(int d, std::int64_t begin, std::int64_t end) const;
  Tensor select(int d, std::int64_t i) const;
  Tensor as_heads(std::int64_t num_heads) const;

  // The same view of a copy of its bytes that lies elsewhere: `data` is what raw() becomes.
  Tensor moved_to(void* data, Device device, std::shared_ptr<void> owner) const;

  const std::shared_ptr<void>& owner() const { return owner_; }

 private:
  void* typed(DType expected) const;

  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Device device_;
  Shape shape_;
  Shape strides_;
  bool defined_empty_ = false;  // a tensor of zero elements is defined, with no bytes
  std::shared_ptr<void> owner_;
};

}  // namespace dsv
