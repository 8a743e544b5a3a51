// In place of the cpu filling where the build has no Highway.
#include "dsv/base/error.h"
#include "dsv/kernels/kernel_table.h"
#include "dsv/kernels/machine_peak.h"

namespace dsv::kernels {
namespace {

[[noreturn]] void refuse() {
  throw_error(ExitCode::kEnvironment,
              "[kernels] this build has no kernels for the cpu: configure with -DDSV_HIGHWAY=ON, "
              "which needs Google Highway; on a GPU it needs none");
}

}  // namespace

const KernelTable& cpu_kernels() {
  refuse();
}
std::string_view cpu_isa_name() {
  return "none";
}
double peak_fma_gflops(int) {
  refuse();
}
double copy_bandwidth_gbytes(int) {
  refuse();
}

}  // namespace dsv::kernels
