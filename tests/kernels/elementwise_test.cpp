#include "dsv/kernels/elementwise.h"

#include "kernels/support/cpu_checks.h"

namespace dsv::test {
namespace {

using kernels::Axpby;
using kernels::cpu_kernels;
using kernels::reference_kernels;

const std::vector<DType> kFloats{DType::kF32, DType::kBF16, DType::kF16, DType::kF64};

TEST_CASE("fill: every element, nothing else", "[elementwise]") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{1}, Shape{3, 7}, Shape{70001}}) {
      CAPTURE(static_cast<int>(dtype), shape.num_elements());
      const Tensor want = empty(shape, dtype);
      reference_kernels().fill({.y = want, .value = 0.3f}, {});
      CHECK(max_distance(want, full(shape, static_cast<double>(0.3f), dtype)) == 0);
      const auto got = same_for_any_threads([&](const Stream& stream) {
        std::vector<Output> out{Output(shape, dtype)};
        cpu_kernels().fill({.y = out[0], .value = 0.3f}, stream);
        return out;
      });
      CHECK(bitwise_equal(got[0], want));
    }
  }
}

TEST_CASE("axpby: within rounding of the reference, contiguous or by rows", "[elementwise]") {
  struct Case {
    std::int64_t rows, C, x_pad, y_pad;
  };
  for_each_isa([] {
    for (const Case& c : std::vector<Case>{{1, 1, 0, 0},
                                           {3, 17, 0, 0},
                                           {5, 33, 3, 0},
                                           {400, 101, 2, 5},
                                           {2, 20000, 0, 0},
                                           {0, 4, 0, 0}}) {
      for (const DType x_type : {DType::kF32, DType::kBF16}) {
        for (const DType y_type : {DType::kF32, DType::kBF16}) {
          for (const float b : {0.0f, 1.0f, -0.75f}) {
            CAPTURE(c.rows, c.C, c.x_pad, c.y_pad, b, static_cast<int>(x_type),
                    static_cast<int>(y_type));
            const Shape shape{c.rows, c.C};
            const Tensor x = random(shape, 1, 8, x_type, {0, c.x_pad});
            const Tensor y0 = random(shape, 2, 8, y_type);
            const Tensor want = to_f64(y0);
            reference_kernels().axpby({.x = to_f64(x), .y = want, .a = 1.7f, .b = b}, {});
            const auto got = same_for_any_threads([&](const Stream& stream) {
              // With b = 0 the NaNs of a fresh output must not be read.
              std::vector<Output> out{b == 0 ? Output(shape, y_type, {0, c.y_pad})
                                             : Output::holding(y0, {0, c.y_pad})};
              cpu_kernels().axpby({.x = x, .y = out[0], .a = 1.7f, .b = b}, stream);
              return out;
            });
            const double bound = y_type == DType::kF32 ? 3 * kEps : 0x1p-8 + 3 * kEps;
            CHECK(row_error(got[0], want) <= bound);
          }
        }
      }
    }
  });
}

TEST_CASE("axpby: the reference leaves gaps alone and skips y when b is 0", "[elementwise]") {
  const Tensor x = random({3, 5}, 1, 1, DType::kF32, {0, 2});
  const Output y({3, 5}, DType::kF32, {0, 4});
  reference_kernels().axpby({.x = x, .y = y, .a = 2, .b = 0}, {});
  CHECK(y.intact());
  const std::vector<double> v = values(y), in = values(x);
  for (std::size_t e = 0; e < v.size(); ++e) CHECK(v[e] == 2 * in[e]);
}

TEST_CASE("cast: every pair of types exactly as the reference", "[elementwise]") {
  for_each_isa([] {
    for (const DType from : kFloats) {
      for (const DType to : kFloats) {
        for (const std::int64_t n : {0, 1, 15, 33, 40001}) {
          CAPTURE(static_cast<int>(from), static_cast<int>(to), n);
          const Tensor x = random({n}, 1, 3, from);
          const Tensor want = empty({n}, to);
          reference_kernels().cast({.x = x, .y = want}, {});
          const auto got = same_for_any_threads([&](const Stream& stream) {
            std::vector<Output> out{Output({n}, to)};
            cpu_kernels().cast({.x = x, .y = out[0]}, stream);
            return out;
          });
          CHECK(bitwise_equal(got[0], want));
        }
      }
    }
  });
}

TEST_CASE("cast: ties to even, specials, and one rounding only", "[elementwise]") {
  const Tensor x = empty({8}, DType::kF64), y = empty({8}, DType::kBF16);
  // 1 + 2^-8 is half way between two bf16; a little more must go up, also when that little is lost
  // on the way through f32.
  int i = 0;
  for (const double v : {1 + 0x1p-8, 1 + 3 * 0x1p-8, 1 + 0x1p-8 + 0x1p-40, 1e300, -1e300,
                         static_cast<double>(NAN), 0.0, -0x1p-140}) {
    x.f64()[i++] = v;
  }
  for_each_isa([&] {
    for (const auto* table : {&cpu_kernels(), &reference_kernels()}) {
      table->cast({.x = x, .y = y}, cpu_stream());
      const std::vector<double> v = values(y);
      CHECK(v[0] == 1);
      CHECK(v[1] == 1 + 4 * 0x1p-8);
      CHECK(v[2] == 1 + 2 * 0x1p-8);
      CHECK(v[3] == INFINITY);
      CHECK(v[4] == -INFINITY);
      CHECK(std::isnan(v[5]));
      CHECK(v[6] == 0);
      CHECK(v[7] == 0);
      CHECK(std::signbit(v[7]));
    }
    const Tensor nans = full({40}, static_cast<double>(NAN)), narrow = empty({40}, DType::kBF16);
    cpu_kernels().cast({.x = nans, .y = narrow}, cpu_stream());
    for (const double v : values(narrow)) CHECK(std::isnan(v));
  });
}

TEST_CASE("fill, axpby, cast: other types are refused", "[elementwise]") {
  const Tensor i32 = empty({4}, DType::kI32), f32 = full({4}, 1), f64 = empty({4}, DType::kF64);
  CHECK_THROWS_AS(cpu_kernels().fill({.y = i32}, cpu_stream()), Error);
  CHECK_THROWS_AS(cpu_kernels().axpby({.x = f64, .y = f32}, cpu_stream()), Error);
  CHECK_THROWS_AS(cpu_kernels().cast({.x = i32, .y = f32}, cpu_stream()), Error);
}

}  // namespace
}  // namespace dsv::test
