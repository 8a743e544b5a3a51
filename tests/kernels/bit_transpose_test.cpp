#include "dsv/kernels/bit_transpose.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::reference_kernels;

Tensor random_words(const Shape& shape, std::uint64_t id) {
  const Tensor out = empty(shape, DType::kU32);
  const PhiloxStream stream({.seed = 7, .purpose = RngPurpose::kTest, .sample = id});
  for (std::int64_t e = 0; e < out.num_elements(); ++e) {
    out.u32()[e] = stream.word(static_cast<std::uint64_t>(e));
  }
  return out;
}

bool bit(const Tensor& words, std::int64_t r, std::int64_t row, std::int64_t column) {
  const std::int64_t at = (r * words.dim(1) + row) * words.dim(2) + column / 32;
  return (words.u32()[at] >> (column % 32) & 1u) != 0;
}

TEST_CASE("bit_transpose: the reference, bit by bit", "[bit_transpose]") {
  const std::int64_t R = 2, G = 35, N = 70;
  const Tensor in = random_words({R, G, 3}, 1), out = empty({R, N, 2}, DType::kU32);
  reference_kernels().bit_transpose({.in = in, .out = out}, {});
  for (std::int64_t r = 0; r < R; ++r) {
    for (std::int64_t n = 0; n < N; ++n) {
      for (std::int64_t g = 0; g < 64; ++g) {
        CHECK(bit(out, r, n, g) == (g < G && bit(in, r, g, n)));
      }
    }
  }
}

TEST_CASE("bit_transpose: any number of groups and blocks", "[bit_transpose]") {
  for (const std::int64_t R : {0, 1, 3}) {
    for (const std::int64_t G : {0, 1, 31, 32, 33, 100, 256, 300}) {
      for (const std::int64_t N : {0, 1, 32, 63, 1000, 1025}) {
        CAPTURE(R, G, N);
        const Tensor in = random_words({R, G, (N + 31) / 32}, 2);  // bits past N too
        const Shape shape{R, N, (G + 31) / 32};
        const Tensor want = empty(shape, DType::kU32);
        reference_kernels().bit_transpose({.in = in, .out = want}, {});
        for_each_backend([&] {
          const auto got = same_for_any_threads([&](const Stream& stream) {
            std::vector<Output> out;
            out.emplace_back(shape, DType::kU32);
            tested_kernels().bit_transpose({.in = in, .out = out[0]}, stream);
            return out;
          });
          CHECK(bitwise_equal(got[0], want));
        });
      }
    }
  }
}

TEST_CASE("bit_transpose: twice is the input", "[bit_transpose]") {
  const std::int64_t R = 2, G = 70, N = 2048;
  const Tensor in = random_words({R, G, N / 32}, 3);
  for_each_backend([&] {
    const Output by_block({R, N, 3}, DType::kU32), again({R, G, N / 32}, DType::kU32);
    tested_kernels().bit_transpose({.in = in, .out = by_block}, cpu_stream(2));
    tested_kernels().bit_transpose({.in = by_block, .out = again}, cpu_stream(2));
    CHECK(bitwise_equal(again, in));
  });
}

}  // namespace
}  // namespace dsv::test
