#include "tables/entries.h"

namespace dsv::kernels {

const KernelTable& cpu_kernels() {
  static const KernelTable table = [] {
    KernelTable t{.name = "cpu"};
#define DSV_FILL(entry, Args) t.entry = &cpu::entry;
    DSV_KERNEL_LIST(DSV_FILL)
#undef DSV_FILL
    return t;
  }();
  return table;
}

}  // namespace dsv::kernels
