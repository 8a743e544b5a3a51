// Every kernel of the list is there in every table, under its own name.
#include <set>
#include <string>

#include "dsv/base/error.h"
#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

TEST_CASE("kernel tables: every entry is filled and named", "[support]") {
  for (const KernelTable* table : {&reference_kernels(), &cpu_kernels()}) {
    std::set<std::string> names;
    for (std::size_t i = 0; i < num_kernels(); ++i) {
      const EntryName entry = kernel_entry(*table, i);
      CAPTURE(table->name, entry.name);
      CHECK(entry.filled);
      CHECK(!std::string(entry.name).empty());
      names.insert(entry.name);
    }
    CHECK(names.size() == num_kernels());
    CHECK(names.count("layer_norm_backward") == 1);
  }
  CHECK(std::string(reference_kernels().name) == "reference");
  CHECK(std::string(cpu_kernels().name) == "cpu");
  CHECK_THROWS_AS(kernel_entry(cpu_kernels(), num_kernels()), Error);
}

TEST_CASE("kernel tables: no two entries share a function, no entry is another table's",
          "[support]") {
  std::set<const void*> functions;
  for (const KernelTable* table : {&reference_kernels(), &cpu_kernels()}) {
#define DSV_INSERT(entry, Args) functions.insert(reinterpret_cast<const void*>(table->entry));
    DSV_KERNEL_LIST(DSV_INSERT)
#undef DSV_INSERT
  }
  CHECK(functions.size() == 2 * num_kernels());
}

TEST_CASE("kernel tables: an empty entry is reported as such", "[support]") {
  KernelTable table = cpu_kernels();
  table.rope = nullptr;
  std::size_t empty = 0;
  for (std::size_t i = 0; i < num_kernels(); ++i) {
    const EntryName entry = kernel_entry(table, i);
    if (!entry.filled) CHECK(std::string(entry.name) == "rope");
    empty += !entry.filled;
  }
  CHECK(empty == 1);
}

TEST_CASE("kernel tables: the instruction set has a name", "[support]") {
  const std::string isa(cpu_isa_name());
  CAPTURE(isa);
  CHECK((isa == "AVX-512" || isa == "AVX2" || isa == "portable"));
}

}  // namespace
}  // namespace dsv::kernels
