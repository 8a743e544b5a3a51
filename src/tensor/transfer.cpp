#include "dsv/tensor/transfer.h"

#include <cstring>

namespace dsv {

void transfer(const Tensor& from, const Tensor& to, const Stream&) {
  DSV_CHECK(from.dtype() == to.dtype() && from.num_elements() == to.num_elements() &&
                from.is_contiguous() && to.is_contiguous(),
            "[transfer] {} {} does not fit {} {}", from.dtype(), from.shape(), to.dtype(),
            to.shape());
  DSV_CHECK(from.device().kind == DeviceKind::kCpu && to.device().kind == DeviceKind::kCpu,
            "[transfer] {} to {}: this build has the cpu device only", from.device(), to.device());
  if (from.num_bytes() > 0) {
    std::memcpy(to.raw(), from.raw(), static_cast<std::size_t>(from.num_bytes()));
  }
}

}  // namespace dsv
