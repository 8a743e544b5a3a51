#include "dsv/tensor/transfer.h"

#include <cstring>

#include "dsv/tensor/cuda_device.h"

namespace dsv {

void transfer(const Tensor& from, const Tensor& to, const Stream& stream) {
  DSV_CHECK(from.dtype() == to.dtype() && from.num_elements() == to.num_elements() &&
                from.is_contiguous() && to.is_contiguous(),
            "[transfer] {} {} does not fit {} {}", from.dtype(), from.shape(), to.dtype(),
            to.shape());
  if (from.num_bytes() == 0) return;
  if (from.device().kind == DeviceKind::kCpu && to.device().kind == DeviceKind::kCpu) {
    std::memcpy(to.raw(), from.raw(), static_cast<std::size_t>(from.num_bytes()));
  } else {
    detail::cuda_transfer(from, to, stream);
  }
}

}  // namespace dsv
