#include "dsv/data/host_tensor.h"

#include <cstdlib>

namespace dsv::data {

Tensor host_tensor(const Shape& shape, DType dtype) {
  constexpr std::int64_t kAlignment = 64;
  const std::int64_t bytes = checked_mul(shape.num_elements(), size_of(dtype));
  if (bytes == 0) return Tensor(nullptr, dtype, shape);
  void* data =
      std::aligned_alloc(kAlignment, static_cast<std::size_t>(round_up(bytes, kAlignment)));
  if (data == nullptr) {
    throw_error(ExitCode::kEnvironment, "[data] out of host memory: {} bytes for a tensor {}",
                bytes, shape);
  }
  return Tensor(data, dtype, shape, {}, std::shared_ptr<void>(data, std::free));
}

}  // namespace dsv::data
