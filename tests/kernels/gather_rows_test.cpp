#include "dsv/kernels/gather_rows.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::reference_kernels;

struct Case {
  std::int64_t B, S, N, C;
  std::int64_t pad = 0;  // of the rows of x and y, unequal
};

// Rows of every alignment: packs of 16 bytes, of 4, single bf16; one row, no row, rows wider than a
// pass of a warp; more rows than are read, and rows read many times.
const std::vector<Case> kCases{
    {1, 1, 1, 1}, {2, 5, 7, 3, 1}, {1, 100, 64, 64},     {3, 33, 70, 24, 4}, {2, 9, 1, 1027, 3},
    {1, 4, 0, 8}, {0, 4, 4, 8},    {2, 300, 513, 40, 8}, {1, 7, 5, 2304},    {2, 6, 6, 10, 2}};

// Any rows, in no order, some of them several times.
Tensor some_rows(std::int64_t N, std::int64_t S) {
  const Tensor index = empty({N}, DType::kI32);
  const PhiloxStream stream({.seed = 5, .purpose = RngPurpose::kTest});
  for (std::int64_t i = 0; i < N; ++i) {
    index.i32()[i] = static_cast<std::int32_t>(stream.word(static_cast<std::uint64_t>(i)) %
                                               static_cast<std::uint32_t>(S));
  }
  return index;
}

TEST_CASE("gather_rows: three rows by hand", "[gather_rows]") {
  const Tensor x = empty({1, 3, 2}), y = empty({1, 4, 2}), index = empty({4}, DType::kI32);
  for (int e = 0; e < 6; ++e) x.f32()[e] = static_cast<float>(e);
  for (const int i : {0, 1, 2, 3})
    index.i32()[i] = std::array{2, 0, 2, 1}[static_cast<std::size_t>(i)];
  reference_kernels().gather_rows({.x = x, .index = index, .y = y}, {});
  CHECK(values(y) == std::vector<double>{4, 5, 0, 1, 4, 5, 2, 3});
}

TEST_CASE("gather_rows: exactly the reference's rows, in f32 and bf16", "[gather_rows]") {
  const auto check_all = [] {
    for (const Case& c : kCases) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        CAPTURE(c.B, c.S, c.N, c.C, c.pad, to_string(dtype));
        const Tensor x = random({c.B, c.S, c.C}, 1, 1, dtype, {0, 0, c.pad});
        const Tensor index = some_rows(c.N, c.S);
        const Shape shape{c.B, c.N, c.C};
        const Tensor want = empty(shape, dtype);
        reference_kernels().gather_rows({.x = x, .index = index, .y = want}, {});
        const auto got = same_for_any_threads([&](const Stream& stream) {
          std::vector<Output> out{Output(shape, dtype, {0, 1, 2 * c.pad})};
          tested_kernels().gather_rows({.x = x, .index = index, .y = out[0]}, stream);
          return out;
        });
        CHECK(bitwise_equal(got[0], want));
      }
    }
  };
  on_gpu(check_all);
  check_all();  // one code for every instruction set of the processor
}

TEST_CASE("gather_rows: NaNs keep their bits", "[gather_rows]") {
  const auto check = [] {
    const Tensor x = empty({1, 2, 4}), y = full({1, 2, 4}, 0), index = empty({2}, DType::kI32);
    const std::uint32_t payloads[] = {0x7FC00001u, 0xFFC12345u, 0x7F800001u, 0x80000000u};
    std::memcpy(x.f32() + 4, payloads, sizeof payloads);
    index.i32()[0] = 1, index.i32()[1] = 1;
    tested_kernels().gather_rows({.x = x, .index = index, .y = y}, cpu_stream());
    CHECK(std::memcmp(y.f32(), payloads, sizeof payloads) == 0);
    CHECK(std::memcmp(y.f32() + 4, payloads, sizeof payloads) == 0);
  };
  on_gpu(check);
  check();
}

TEST_CASE("gather_rows: a permutation and its inverse give the rows back", "[gather_rows]") {
  const std::int64_t S = 257, C = 6;
  const Tensor x = random({2, S, C}, 1), order = empty({S}, DType::kI32),
               inverse = empty({S}, DType::kI32);
  for (std::int64_t i = 0; i < S; ++i) {
    order.i32()[i] = static_cast<std::int32_t>(i * 100 % S);
    inverse.i32()[order.i32()[i]] = static_cast<std::int32_t>(i);
  }
  const auto check = [&] {
    const Tensor there = empty({2, S, C}), back = empty({2, S, C});
    tested_kernels().gather_rows({.x = x, .index = order, .y = there}, cpu_stream(2));
    tested_kernels().gather_rows({.x = there, .index = inverse, .y = back}, cpu_stream(2));
    CHECK(bitwise_equal(back, x));
    CHECK(!bitwise_equal(there, x));
  };
  on_gpu(check);
  check();
}

}  // namespace
}  // namespace dsv::test
