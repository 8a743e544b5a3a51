#include "dsv/tensor/tensor.h"

namespace dsv {
namespace {

Shape contiguous_strides(const Shape& shape) {
  Shape strides = shape;
  std::int64_t step = 1;
  for (int i = shape.num_dims() - 1; i >= 0; --i) {
    strides[i] = step;
    // A shape without elements may have other dims of any size; its strides address nothing.
    if (!try_mul(step, std::max<std::int64_t>(1, shape[i]), &step)) step = INT64_MAX;
  }
  return strides;
}

}  // namespace

std::string to_string(const Device& device) {
  return device.kind == DeviceKind::kCpu ? "cpu" : format("cuda:{}", device.index);
}

std::string to_string(const Shape& shape) {
  std::string out = "[";
  for (int i = 0; i < shape.num_dims(); ++i) out += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

Tensor::Tensor(void* data, DType dtype, const Shape& shape, Device device,
               std::shared_ptr<void> owner)
    : data_(data),
      dtype_(dtype),
      device_(device),
      shape_(shape),
      strides_(contiguous_strides(shape)),
      defined_empty_(shape.num_elements() == 0),
      owner_(std::move(owner)) {
  DSV_CHECK(data != nullptr || defined_empty_, "[tensor] null data for shape {}", shape);
}

bool Tensor::is_contiguous() const {
  const Shape dense = contiguous_strides(shape_);
  for (int i = 0; i < num_dims(); ++i) {
    if (shape_[i] > 1 && dense[i] != strides_[i]) return false;
  }
  return true;
}

void* Tensor::typed(DType expected) const {
  DSV_CHECK(dtype_ == expected, "[tensor] expected dtype {}, got {} (shape {})", expected, dtype_,
            shape_);
  return data_;
}

Tensor Tensor::reshape(const Shape& shape) const {
  DSV_CHECK(is_contiguous(), "[tensor] reshape of {} needs a contiguous tensor", shape_);
  DSV_CHECK(shape.num_elements() == num_elements(), "[tensor] cannot view {} as {}", shape_, shape);
  Tensor out = *this;
  out.shape_ = shape;
  out.strides_ = contiguous_strides(shape);
  return out;
}

Tensor Tensor::reshape(std::initializer_list<std::int64_t> dims) const {
  std::int64_t known = 1;
  int unknown = 0;
  for (const std::int64_t d : dims) {
    if (d < 0)
      ++unknown;
    else
      known = checked_mul(known, d);
  }
  DSV_CHECK(unknown <= 1, "[tensor] reshape: at most one dim may be -1");
  Shape shape;
  for (const std::int64_t d : dims) shape.push_back(d < 0 ? div_exact(num_elements(), known) : d);
  return reshape(shape);
}

Tensor Tensor::slice(int d, std::int64_t begin, std::int64_t end) const {
  DSV_CHECK(0 <= begin && begin <= end && end <= dim(d), "[tensor] slice [{}, {}) of dim {} of {}",
            begin, end, d, shape_);
  Tensor out = *this;
  out.shape_[d] = end - begin;
  out.defined_empty_ = out.num_elements() == 0;
  if (data_ != nullptr) {
    out.data_ = static_cast<char*>(data_) + begin * stride(d) * size_of(dtype_);
  }
  return out;
}

Tensor Tensor::select(int d, std::int64_t i) const {
  const int at = d < 0 ? d + num_dims() : d;
  Tensor cut = slice(at, i, i + 1);
  Shape shape, strides;
  for (int k = 0; k < num_dims(); ++k) {
    if (k == at) continue;
    shape.push_back(cut.shape_[k]);
    strides.push_back(cut.strides_[k]);
  }
  cut.shape_ = shape;
  cut.strides_ = strides;
  return cut;
}

Tensor Tensor::as_heads(std::int64_t num_heads) const {
  DSV_CHECK(num_dims() == 3 && stride(2) == 1, "[tensor] as_heads expects [B, S, C], got {}",
            shape_);
  const std::int64_t head_dim = div_exact(dim(2), num_heads);
  Tensor out = *this;
  out.shape_ = Shape{dim(0), dim(1), num_heads, head_dim};
  out.strides_ = Shape{stride(0), stride(1), head_dim, 1};
  return out;
}

Tensor Tensor::moved_to(void* data, Device device, std::shared_ptr<void> owner) const {
  Tensor out = *this;
  out.data_ = data;
  out.device_ = device;
  out.owner_ = std::move(owner);
  return out;
}

}  // namespace dsv
