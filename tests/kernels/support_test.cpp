// Every kernel of the list is there in every table, under its own name.
#include <set>
#include <string>

#include "dsv/base/error.h"
#include "dsv/kernels/kernel_table.h"
#include "kernels/support/checks.h"
#include "kernels/support/hosted_call.h"

namespace dsv::kernels {
namespace {

// The tables of this build. Filling one does not need a GPU; calling it does.
std::vector<const KernelTable*> all_tables() {
  std::vector<const KernelTable*> tables{&reference_kernels(), &cpu_kernels()};
  if (built_with_cuda()) tables.push_back(&cuda_kernels());
  return tables;
}

TEST_CASE("kernel tables: every entry is filled and named", "[support]") {
  for (const KernelTable* table : all_tables()) {
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
  for (const KernelTable* table : all_tables()) {
#define DSV_INSERT(entry, Args) functions.insert(reinterpret_cast<const void*>(table->entry));
    DSV_KERNEL_LIST(DSV_INSERT)
#undef DSV_INSERT
  }
  CHECK(functions.size() == all_tables().size() * num_kernels());
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

TEST_CASE("kernel tables: a build without CUDA says what to configure", "[support]") {
  if (built_with_cuda()) return;
  CHECK_THROWS_WITH(cuda_kernels(), Contains("-DDSV_CUDA=ON"));
}

// --- The table that runs kernels elsewhere, shown here with the processor as "elsewhere"
// ----------

TEST_CASE("hosted calls: every tensor of an argument struct is found", "[support]") {
  const auto count = [](auto args) {
    int n = 0;
    test::detail::for_each_tensor(args, [&](Tensor&) { ++n; });
    return n;
  };
  CHECK(count(AttentionBackward{}) == 11);
  CHECK(count(LayerNormBackward{}) == 12);
  CHECK(count(LinearForward{}) == 5);
  CHECK(count(AdamW{}) == 6);
  CHECK(count(Patchify{}) == 3);
  CHECK(count(RandomFill{}) == 1);
  CHECK(count(Fill{}) == 1);
}

TEST_CASE("hosted calls: the same results, in place and in strides, gaps untouched", "[support]") {
  Arena arena;
  const auto hosted = [&](const RmsNormForward& args) {
    test::run_hosted(args, arena, {}, reference_kernels().rms_norm_forward);
  };
  const Tensor x = test::random({9, 21}, 1, 1, DType::kF32, {0, 5}), weight = test::random({21}, 2);
  const Tensor y = test::empty({9, 21}), rstd = test::empty({9});
  reference_kernels().rms_norm_forward({.x = x, .weight = weight, .y = y, .rstd = rstd}, {});
  const test::Output out({9, 21}, DType::kF32, {0, 3}), out_rstd({9});
  hosted({.x = x, .weight = weight, .y = out, .rstd = out_rstd});
  CHECK(test::bitwise_equal(out, y));
  CHECK(test::bitwise_equal(out_rstd, rstd));
  CHECK((out.intact() && out_rstd.intact()));
  const test::Output in_place = test::Output::holding(x);
  hosted({.x = in_place, .weight = weight, .y = in_place, .rstd = out_rstd});
  CHECK(test::bitwise_equal(in_place, y));
}

}  // namespace
}  // namespace dsv::kernels
