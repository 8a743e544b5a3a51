#include "dsv/kernels/elementwise.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::Axpby;
using kernels::reference_kernels;

const std::vector<DType> kFloats{DType::kF32, DType::kBF16, DType::kF16, DType::kF64};

TEST_CASE("fill: every element, nothing else", "[elementwise]") {
  for_each_backend([] {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
      for (const Shape& shape : {Shape{}, Shape{0}, Shape{1}, Shape{3, 7}, Shape{70001}}) {
        CAPTURE(static_cast<int>(dtype), shape.num_elements());
        const Tensor want = empty(shape, dtype);
        reference_kernels().fill({.y = want, .value = 0.3f}, {});
        CHECK(max_distance(want, full(shape, static_cast<double>(0.3f), dtype)) == 0);
        const auto got = same_for_any_threads([&](const Stream& stream) {
          std::vector<Output> out{Output(shape, dtype)};
          tested_kernels().fill({.y = out[0], .value = 0.3f}, stream);
          return out;
        });
        CHECK(bitwise_equal(got[0], want));
      }
    }
  });
}

// Elements [1, n + 1) of a longer tensor: at no address where two can be accessed at once.
Tensor all_but_first(const Tensor& longer) {
  return longer.slice(0, 1, longer.dim(0));
}

TEST_CASE("fill, axpby, cast: slices at any address", "[elementwise]") {
  for_each_backend([] {
    constexpr std::int64_t n = 5001;
    for (const DType x_type : kFloats) {
      const Tensor x = all_but_first(random({n + 1}, 1, 3, x_type));
      for (const DType y_type : kFloats) {
        CAPTURE(static_cast<int>(x_type), static_cast<int>(y_type));
        const Output y({n + 1}, y_type);
        const Tensor part = all_but_first(y), want = empty({n}, y_type);
        tested_kernels().cast({.x = x, .y = part}, cpu_stream());
        reference_kernels().cast({.x = x, .y = want}, {});
        CHECK(bitwise_equal(part, want));
        CHECK(std::isnan(values(y)[0]));
        CHECK(y.intact());
        const auto is_wide = [](DType t) { return t == DType::kF16 || t == DType::kF64; };
        if (y_type != DType::kF16) {
          tested_kernels().fill({.y = part, .value = 2}, cpu_stream());
          CHECK(max_distance(part, full({n}, 2)) == 0);
          CHECK(std::isnan(values(y)[0]));
        }
        if (is_wide(x_type) || is_wide(y_type)) continue;
        tested_kernels().axpby({.x = x, .y = part, .a = 4, .b = 1}, cpu_stream());
        reference_kernels().fill({.y = want, .value = 2}, {});
        reference_kernels().axpby({.x = x, .y = want, .a = 4, .b = 1}, {});
        CHECK(bitwise_equal(part, want));  // 4 x is exact: one rounding
        CHECK(std::isnan(values(y)[0]));
        CHECK(y.intact());
      }
    }
  });
}

TEST_CASE("axpby: within rounding of the reference, contiguous or by rows", "[elementwise]") {
  struct Case {
    std::int64_t rows, C, x_pad, y_pad;
  };
  for_each_backend([] {
    for (const Case& c : std::vector<Case>{{1, 1, 0, 0},
                                           {3, 17, 0, 0},
                                           {5, 33, 3, 0},
                                           {400, 101, 2, 5},
                                           {2, 20000, 0, 0},
                                           {70, 264, 8, 0},
                                           {70, 264, 8, 24},
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
              tested_kernels().axpby({.x = x, .y = out[0], .a = 1.7f, .b = b}, stream);
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
  for_each_backend([] {
    for (const DType from : kFloats) {
      for (const DType to : kFloats) {
        for (const std::int64_t n : {0, 1, 15, 33, 40001}) {
          CAPTURE(static_cast<int>(from), static_cast<int>(to), n);
          const Tensor x = random({n}, 1, 3, from);
          const Tensor want = empty({n}, to);
          reference_kernels().cast({.x = x, .y = want}, {});
          const auto got = same_for_any_threads([&](const Stream& stream) {
            std::vector<Output> out{Output({n}, to)};
            tested_kernels().cast({.x = x, .y = out[0]}, stream);
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
  for_each_backend([&] {
    for (const auto* table : {&tested_kernels(), &reference_kernels()}) {
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
    tested_kernels().cast({.x = nans, .y = narrow}, cpu_stream());
    for (const double v : values(narrow)) CHECK(std::isnan(v));
  });
}

TEST_CASE("cast: the ends of every type's range", "[elementwise]") {
  // Around the smallest and the largest number of each type, normal and denormal, and half way.
  std::vector<double> numbers{0,           1,       1 + 0x1p-8, 1 + 0x1p-11, 1 + 3 * 0x1p-11,
                              1 + 0x1p-24, INFINITY};
  for (const double edge : {0x1p-24, 0x1p-25, 0x1p-14, 65504.0, 65520.0, 65536.0, 0x1p-126,
                            0x1p-133, 0x1p-134, 0x1p-149, 0x1p-150, 0x1.fep127, 0x1.ffp127,
                            0x1.fffffep127, 0x1.ffffffp127, 0x1p128, 0x1p-1022}) {
    for (const double factor : {1.0, 1 - 0x1p-53, 1 + 0x1p-52, 1 - 0x1p-20, 1 + 0x1p-20}) {
      numbers.push_back(edge * factor);
    }
  }
  const auto n = static_cast<std::int64_t>(numbers.size());
  const Tensor both_signs = empty({2 * n}, DType::kF64);
  for (std::int64_t i = 0; i < n; ++i) {
    both_signs.f64()[2 * i] = numbers[static_cast<std::size_t>(i)];
    both_signs.f64()[2 * i + 1] = -numbers[static_cast<std::size_t>(i)];
  }
  for_each_backend([&] {
    for (const DType from : kFloats) {
      const Tensor x = empty({2 * n}, from);
      reference_kernels().cast({.x = both_signs, .y = x}, {});
      for (const DType to : kFloats) {
        CAPTURE(static_cast<int>(from), static_cast<int>(to));
        const Tensor want = empty({2 * n}, to), got = empty({2 * n}, to);
        reference_kernels().cast({.x = x, .y = want}, {});
        tested_kernels().cast({.x = x, .y = got}, cpu_stream());
        CHECK(bitwise_equal(got, want));
      }
    }
  });
}

TEST_CASE("fill, axpby, cast: other types are refused", "[elementwise]") {
  const Tensor i32 = empty({4}, DType::kI32), f32 = full({4}, 1), f64 = empty({4}, DType::kF64);
  for_each_backend([&] {
    CHECK_THROWS_AS(tested_kernels().fill({.y = i32}, cpu_stream()), Error);
    CHECK_THROWS_AS(tested_kernels().axpby({.x = f64, .y = f32}, cpu_stream()), Error);
    CHECK_THROWS_AS(tested_kernels().cast({.x = i32, .y = f32}, cpu_stream()), Error);
  });
}

}  // namespace
}  // namespace dsv::test
