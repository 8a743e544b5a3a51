// In place of the cuda filling where the build has none.
#include "dsv/base/error.h"
#include "dsv/kernels/kernel_table.h"
#include "dsv/kernels/session.h"

namespace dsv::kernels {

const KernelTable& cuda_kernels() {
  throw_error(ExitCode::kEnvironment,
              "[kernels] this build has no CUDA kernels: configure with -DDSV_CUDA=ON, which needs "
              "nvcc, cuBLASLt, cuDNN 9, and NCCL");
}

std::shared_ptr<void> make_session(const Stream& stream, const SessionOptions&) {
  if (stream.device.kind != DeviceKind::kCpu) cuda_kernels();
  return nullptr;
}

}  // namespace dsv::kernels
