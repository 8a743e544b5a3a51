#include "tables/entries.h"

namespace dsv::kernels {

const KernelTable& cuda_kernels() {
  static const KernelTable table = [] {
    KernelTable t{.name = "cuda"};
#define DSV_FILL(entry, Args) t.entry = &cuda::entry;
    DSV_KERNEL_LIST(DSV_FILL)
#undef DSV_FILL
    return t;
  }();
  return table;
}

}  // namespace dsv::kernels
