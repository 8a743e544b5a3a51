#include "dsv/kernels/segment_mean.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::reference_kernels;

Tensor starts(const std::vector<std::int32_t>& values) {
  const Tensor t = empty({static_cast<std::int64_t>(values.size())}, DType::kI32);
  std::copy(values.begin(), values.end(), t.i32());
  return t;
}

TEST_CASE("segment_mean: by hand", "[segment_mean]") {
  const Tensor x = empty({1, 3, 1}), y = empty({1, 3, 1});
  for (int i = 0; i < 3; ++i) x.f32()[i] = static_cast<float>(i + 1);
  reference_kernels().segment_mean({.x = x, .start = starts({0, 2, 2, 3}), .y = y}, {});
  CHECK(y.f32()[0] == 1.5f);
  CHECK(y.f32()[1] == 1.5f);
  CHECK(y.f32()[2] == 3);
}

TEST_CASE("segment_mean: within rounding of the reference, in any strides", "[segment_mean]") {
  for_each_backend([] {
    for (const std::int64_t C : {1, 17, 300}) {
      for (const Shape& pad : {Shape{}, Shape{0, 0, 5}}) {
        const std::int64_t B = 2, S = 137;
        const Tensor start = starts({0, 1, 1, 17, 80, 137});
        const Tensor x = random({B, S, C}, 1, 1, DType::kF32, pad), want = empty({B, S, C}, DType::kF64);
        reference_kernels().segment_mean({.x = to_f64(x), .start = start, .y = want}, {});
        const auto got = same_for_any_threads([&](const Stream& stream) {
          std::vector<Output> out{Output({B, S, C})};
          tested_kernels().segment_mean({.x = x, .start = start, .y = out[0]}, stream);
          return out;
        });
        CHECK(max_distance(got[0], want) <= 64 * kEps * max_abs(x));
      }
    }
  });
}

TEST_CASE("segment_mean: bf16 on the GPU", "[segment_mean][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    const Tensor start = starts({0, 16, 50, 64});
    const Tensor x = random({1, 64, 96}, 1, 8, DType::kBF16), want = empty({1, 64, 96}, DType::kF64);
    reference_kernels().segment_mean({.x = to_f64(x), .start = start, .y = want}, {});
    const Tensor y = empty({1, 64, 96}, DType::kBF16);
    tested_kernels().segment_mean({.x = x, .start = start, .y = y}, cpu_stream());
    CHECK(max_distance(y, want) <= kEpsBf16 * max_abs(want));
  });
}

TEST_CASE("segment_mean: bf16 is refused", "[segment_mean]") {
  const Tensor x = full({1, 4, 2}, 1, DType::kBF16);
  check_refuses_bf16([&] {
    tested_kernels().segment_mean({.x = x, .start = starts({0, 4}), .y = x}, cpu_stream());
  });
}

}  // namespace
}  // namespace dsv::test
