#include <array>

#include "dsv/kernels/kernel_table.h"

namespace dsv::kernels {

#define DSV_COUNT(entry, Args) +1
std::size_t num_kernels() { return 0 DSV_KERNEL_LIST(DSV_COUNT); }
#undef DSV_COUNT

EntryName kernel_entry(const KernelTable& table, std::size_t i) {
  const std::array entries{
#define DSV_ENTRY(entry, Args) EntryName{#entry, table.entry != nullptr},
      DSV_KERNEL_LIST(DSV_ENTRY)
#undef DSV_ENTRY
  };
  DSV_CHECK(i < entries.size(), "[kernels] entry {} of {}", i, entries.size());
  return entries[i];
}

}  // namespace dsv::kernels
