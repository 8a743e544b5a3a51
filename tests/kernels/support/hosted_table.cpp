// Compiled once: taking every argument struct apart takes seconds.
#include "kernels/support/hosted_table.h"

#include "kernels/support/hosted_call.h"

namespace dsv::test {

const kernels::KernelTable& hosted_cuda_kernels() {
  static const kernels::KernelTable table = [] {
    kernels::KernelTable t{.name = "cuda"};
#define DSV_HOST(entry, Args)                                                  \
  t.entry = [](const kernels::Args& args, const Stream&) {                     \
    HostedDevice& d = HostedDevice::get();                                     \
    run_hosted(args, d.arena, d.stream.stream, kernels::cuda_kernels().entry); \
  };
    DSV_KERNEL_LIST(DSV_HOST)
#undef DSV_HOST
    return t;
  }();
  return table;
}

}  // namespace dsv::test
