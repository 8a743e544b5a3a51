// In place of nccl* where the build has no CUDA.
#include "nccl_reduce.h"

namespace dsv::comm {

const char* enqueue_reduction(const Reduction&, const Stream&) {
  return "this build has no CUDA";
}

std::unique_ptr<Communicator> make_nccl(std::unique_ptr<Communicator>, const Stream&,
                                        const NcclOptions&) {
  throw_error(ExitCode::kEnvironment,
              "[comm] this build has no NCCL: configure with -DDSV_CUDA=ON, which needs nvcc, "
              "cuBLASLt, cuDNN 9, and NCCL");
}

}  // namespace dsv::comm
