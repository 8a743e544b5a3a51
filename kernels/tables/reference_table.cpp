#include "tables/entries.h"

namespace dsv::kernels {

const KernelTable& reference_kernels() {
  static const KernelTable table = [] {
    KernelTable t{.name = "reference"};
#define DSV_FILL(entry, Args) t.entry = &reference::entry;
    DSV_KERNEL_LIST(DSV_FILL)
#undef DSV_FILL
    return t;
  }();
  return table;
}

}  // namespace dsv::kernels
