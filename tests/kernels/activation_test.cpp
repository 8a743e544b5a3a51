#include "dsv/kernels/activation.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::Activation;
using kernels::reference_kernels;

constexpr double kRoundingBf16 = 0x1p-8;  // of a value stored with 8 significant bits

const std::vector<Activation> kKinds{Activation::kNone, Activation::kGeluTanh, Activation::kGeluErf,
                                     Activation::kSilu};

double reference_at(Activation kind, double x) {
  const Tensor in = full({1}, x, DType::kF64), out = f64_like(in);
  reference_kernels().activation_forward({.x = in, .y = out, .kind = kind}, {});
  return out.f64()[0];
}

// Every `step`th f32 with |x| ≤ limit, both signs, from the smallest up.
Tensor many_floats(float limit, std::uint32_t step) {
  const auto last = __builtin_bit_cast(std::uint32_t, limit);
  const auto count = static_cast<std::int64_t>(last / step + 1);
  const Tensor x = empty({2 * count});
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = __builtin_bit_cast(float, static_cast<std::uint32_t>(i) * step);
    x.f32()[2 * i] = value;
    x.f32()[2 * i + 1] = -value;
  }
  return x;
}

// Largest error in units in the last place of the true value, of results not below `floor`.
double worst_ulp(const Tensor& got, const Tensor& want, double floor) {
  double worst = 0;
  for (std::int64_t e = 0; e < got.num_elements(); ++e) {
    const double w = want.f64()[e];
    if (!(std::fabs(w) > floor)) continue;
    const double ulp = std::ldexp(1.0, std::ilogb(w) - 23);
    worst = std::max(worst, std::fabs(static_cast<double>(got.f32()[e]) - w) / ulp);
  }
  return worst;
}

TEST_CASE("activation: known values", "[activation]") {
  CHECK(reference_at(Activation::kGeluErf, 1) == Approx(0.8413447460685429));  // Phi(1)
  CHECK(reference_at(Activation::kSilu, 1) == Approx(0.7310585786300049));
  CHECK(reference_at(Activation::kGeluTanh, 1) == Approx(0.8411919906082768));
  CHECK(reference_at(Activation::kNone, 1.5) == 1.5);
}

TEST_CASE("activation: a few ulp over the whole range of f32", "[activation]") {
  // silu and gelu_erf to 6 units in the last place down to the smallest normal numbers, also in the
  // lower tail, where 1 + erf(x) would have none left. gelu_tanh's exponent is a cubic whose
  // rounding the exponential multiplies by up to 85.
  const Tensor x = many_floats(100, 3571), x64 = to_f64(x);
  for_each_backend([&] {
    for (const Activation kind : kKinds) {
      CAPTURE(static_cast<int>(kind));
      const Tensor want = f64_like(x);
      reference_kernels().activation_forward({.x = x64, .y = want, .kind = kind}, {});
      const Output got(x.shape());
      tested_kernels().activation_forward({.x = x, .y = got, .kind = kind}, cpu_stream());
      const double bound = kind == Activation::kNone ? 0 : kind == Activation::kGeluTanh ? 256 : 6;
      CHECK(worst_ulp(got, want, 1.2e-38 * 100) <= bound);
      CHECK(got.intact());
      // Everywhere, denormals included: absolute error against |x|.
      double worst = 0;
      for (std::int64_t e = 0; e < x.num_elements(); ++e) {
        if (std::fabs(x.f32()[e]) < 1e-37f) continue;
        worst =
            std::max(worst, std::fabs(static_cast<double>(got.tensor().f32()[e]) - want.f64()[e]) /
                                std::fabs(static_cast<double>(x.f32()[e])));
      }
      CHECK(worst <= 2.5 * kEps);
    }
  });
}

TEST_CASE("activation: slopes are right to a few roundings of 1", "[activation]") {
  const Tensor x = many_floats(100, 7919), dy = full(x.shape(), 1), x64 = to_f64(x),
               dy64 = to_f64(dy);
  for_each_backend([&] {
    for (const Activation kind : kKinds) {
      CAPTURE(static_cast<int>(kind));
      const Tensor want = f64_like(x);
      reference_kernels().activation_backward({.x = x64, .dy = dy64, .dx = want, .kind = kind}, {});
      const Output got(x.shape());
      tested_kernels().activation_backward({.x = x, .dy = dy, .dx = got, .kind = kind},
                                           cpu_stream());
      CHECK(max_distance(got, want) <= 5 * kEps);
    }
  });
}

TEST_CASE("activation: sizes, scales, threads, and in place", "[activation]") {
  for_each_backend([] {
    for (const std::int64_t n : {0, 1, 3, 15, 16, 17, 1000, 40001}) {
      for (const double scale : {1.0, 8.0, 32.0, 128.0}) {
        for (const Activation kind : kKinds) {
          if (n > 1000 && scale != 8) continue;  // large: for the threads
          CAPTURE(n, scale, static_cast<int>(kind));
          const Tensor x = random({n}, 1, scale), dy = random({n}, 2, scale);
          const Tensor y = empty({n}, DType::kF64), dx = empty({n}, DType::kF64);
          reference_kernels().activation_forward({.x = to_f64(x), .y = y, .kind = kind}, {});
          reference_kernels().activation_backward(
              {.x = to_f64(x), .dy = to_f64(dy), .dx = dx, .kind = kind}, {});
          const auto got = same_for_any_threads([&](const Stream& stream) {
            std::vector<Output> out{Output({n}), Output({n})};
            tested_kernels().activation_forward({.x = x, .y = out[0], .kind = kind}, stream);
            tested_kernels().activation_backward({.x = x, .dy = dy, .dx = out[1], .kind = kind},
                                                 stream);
            return out;
          });
          CHECK(tensor_error(got[0], y) <= 3 * kEps);
          CHECK(max_distance(got[1], dx) <= 6 * kEps * max_abs(dy));  // slopes cross zero
          const Tensor over_x = converted(x, DType::kF32), over_dy = converted(dy, DType::kF32);
          tested_kernels().activation_forward({.x = over_x, .y = over_x, .kind = kind},
                                              cpu_stream(2));
          tested_kernels().activation_backward({.x = x, .dy = over_dy, .dx = over_dy, .kind = kind},
                                               cpu_stream(2));
          CHECK(bitwise_equal(over_x, got[0]));
          CHECK(bitwise_equal(over_dy, got[1]));
        }
      }
    }
  });
}

TEST_CASE("activation: extremes", "[activation]") {
  const Tensor x = empty({5}), dy = full({5}, 1);
  for (int i = 0; const float v : {3e38f, -3e38f, 0.0f, NAN, INFINITY}) x.f32()[i++] = v;
  for_each_backend([&] {
    for (const Activation kind : kKinds) {
      CAPTURE(static_cast<int>(kind));
      if (kind == Activation::kNone) continue;
      const Output y({5}), dx({5});
      tested_kernels().activation_forward({.x = x, .y = y, .kind = kind}, cpu_stream());
      tested_kernels().activation_backward({.x = x, .dy = dy, .dx = dx, .kind = kind},
                                           cpu_stream());
      const std::vector<double> v = values(y), d = values(dx);
      CHECK(v[0] == static_cast<double>(3e38f));
      CHECK(v[1] == 0);
      CHECK(v[2] == 0);
      CHECK(std::isnan(v[3]));
      CHECK(v[4] == INFINITY);
      CHECK(d[0] == 1);
      CHECK(d[1] == 0);
      CHECK(d[2] == 0.5);
      CHECK(std::isnan(d[3]));
    }
  });
}

// Largest |got - want| in units of what a bf16 result may be off by: its rounding, a little more
// for what comes before it, and `slack`.
double bf16_units(const Tensor& got, const Tensor& want, double slack) {
  const std::vector<double> g = values(got), w = values(want);
  double worst = 0;
  for (std::size_t e = 0; e < w.size(); ++e) {
    const double distance = std::fabs(g[e] - w[e]);
    if (std::isnan(distance)) return INFINITY;
    worst = std::max(worst, distance / (kRoundingBf16 * 33 / 32 * std::fabs(w[e]) + slack));
  }
  return worst;
}

TEST_CASE("activation: every bf16 number on the GPU", "[activation][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    const Tensor x = empty({2 * 0x7f80}, DType::kBF16), dy = full(x.shape(), 1, DType::kBF16);
    for (int i = 0; i < 0x7f80; ++i) {  // from 0 to the largest, both signs
      x.bf16()[2 * i] = static_cast<std::uint16_t>(i);
      x.bf16()[2 * i + 1] = static_cast<std::uint16_t>(i | 0x8000);
    }
    const Tensor x64 = to_f64(x), dy64 = to_f64(dy);
    for (const Activation kind : kKinds) {
      CAPTURE(static_cast<int>(kind));
      const Tensor y64 = f64_like(x), dx64 = f64_like(x);
      reference_kernels().activation_forward({.x = x64, .y = y64, .kind = kind}, {});
      reference_kernels().activation_backward({.x = x64, .dy = dy64, .dx = dx64, .kind = kind}, {});
      const Output y(x.shape(), DType::kBF16), dx(x.shape(), DType::kBF16);
      tested_kernels().activation_forward({.x = x, .y = y, .kind = kind}, cpu_stream());
      tested_kernels().activation_backward({.x = x, .dy = dy, .dx = dx, .kind = kind},
                                           cpu_stream());
      CHECK(bf16_units(y, y64, 1e-36) <= 1);
      CHECK(bf16_units(dx, dx64, 0x1p-16) <= 1);  // slopes cross zero
      CHECK((y.intact() && dx.intact()));
    }
  });
}

// The same values where no two elements can be accessed at once.
Tensor misaligned(const Tensor& t) {
  const Tensor out = empty({t.num_elements() + 1}, t.dtype()).slice(0, 1, t.num_elements() + 1);
  std::memcpy(out.raw(), t.raw(), static_cast<std::size_t>(t.num_bytes()));
  return out;
}

TEST_CASE("activation: bf16 sizes, scales, in place, and misaligned on the GPU",
          "[activation][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const std::int64_t n : {0, 1, 7, 8, 9, 1000, 100003}) {
      for (const double scale : {1.0, 8.0, 32.0, 128.0}) {
        for (const Activation kind : kKinds) {
          if (n > 1000 && scale != 8) continue;  // large: for the blocks
          CAPTURE(n, scale, static_cast<int>(kind));
          const Tensor x = random({n}, 1, scale, DType::kBF16),
                       dy = random({n}, 2, scale, DType::kBF16);
          const Tensor y = empty({n}, DType::kF64), dx = empty({n}, DType::kF64);
          reference_kernels().activation_forward({.x = to_f64(x), .y = y, .kind = kind}, {});
          reference_kernels().activation_backward(
              {.x = to_f64(x), .dy = to_f64(dy), .dx = dx, .kind = kind}, {});
          const auto got = same_for_any_threads([&](const Stream& stream) {
            std::vector<Output> out{Output({n}, DType::kBF16), Output({n}, DType::kBF16)};
            tested_kernels().activation_forward({.x = x, .y = out[0], .kind = kind}, stream);
            tested_kernels().activation_backward({.x = x, .dy = dy, .dx = out[1], .kind = kind},
                                                 stream);
            return out;
          });
          CHECK(bf16_units(got[0], y, 1e-36) <= 1);
          CHECK(bf16_units(got[1], dx, 0x1p-16 * max_abs(dy) + 1e-36) <= 1);
          const Tensor over_x = converted(x, DType::kBF16), over_dy = converted(dy, DType::kBF16);
          tested_kernels().activation_forward({.x = over_x, .y = over_x, .kind = kind},
                                              cpu_stream());
          tested_kernels().activation_backward({.x = x, .dy = over_dy, .dx = over_dy, .kind = kind},
                                               cpu_stream());
          CHECK(bitwise_equal(over_x, got[0]));
          CHECK(bitwise_equal(over_dy, got[1]));
        }
      }
    }
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const Activation kind : kKinds) {
        CAPTURE(static_cast<int>(dtype), static_cast<int>(kind));
        const Tensor x = random({9001}, 1, 2, dtype), dy = random({9001}, 2, 1, dtype);
        const Tensor y = empty({9001}, dtype), dx = empty({9001}, dtype);
        tested_kernels().activation_forward({.x = x, .y = y, .kind = kind}, cpu_stream());
        tested_kernels().activation_backward({.x = x, .dy = dy, .dx = dx, .kind = kind},
                                             cpu_stream());
        const Tensor over_x = misaligned(x), over_dy = misaligned(dy);
        tested_kernels().activation_backward(
            {.x = over_x, .dy = over_dy, .dx = over_dy, .kind = kind}, cpu_stream());
        tested_kernels().activation_forward({.x = over_x, .y = over_x, .kind = kind}, cpu_stream());
        CHECK(bitwise_equal(over_x, y));
        CHECK(bitwise_equal(over_dy, dx));
      }
    }
  });
}

TEST_CASE("activation: bf16 extremes on the GPU", "[activation][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    const Tensor x = empty({5}, DType::kBF16), dy = full({5}, 1, DType::kBF16);
    for (int i = 0; const float v : {3e38f, -3e38f, 0.0f, NAN, INFINITY}) {
      x.bf16()[i++] = bf16_from_f32(v);
    }
    for (const Activation kind : kKinds) {
      CAPTURE(static_cast<int>(kind));
      if (kind == Activation::kNone) continue;
      const Output y({5}, DType::kBF16), dx({5}, DType::kBF16);
      tested_kernels().activation_forward({.x = x, .y = y, .kind = kind}, cpu_stream());
      tested_kernels().activation_backward({.x = x, .dy = dy, .dx = dx, .kind = kind},
                                           cpu_stream());
      const std::vector<double> v = values(y), d = values(dx);
      CHECK(v[0] == values(x)[0]);
      CHECK(v[1] == 0);
      CHECK(v[2] == 0);
      CHECK(std::isnan(v[3]));
      CHECK(v[4] == INFINITY);
      CHECK(d[0] == 1);
      CHECK(d[1] == 0);
      CHECK(d[2] == 0.5);
      CHECK(std::isnan(d[3]));
    }
  });
}

TEST_CASE("activation: the reference's slopes are those of finite differences", "[activation]") {
  for (const Activation kind : kKinds) {
    CAPTURE(static_cast<int>(kind));
    const Tensor x = random({200}, 1, 2, DType::kF64), dy = random({200}, 2, 1, DType::kF64);
    const Tensor y = f64_like(x), dx = f64_like(x);
    reference_kernels().activation_backward({.x = x, .dy = dy, .dx = dx, .kind = kind}, {});
    const auto loss = [&] {
      reference_kernels().activation_forward({.x = x, .y = y, .kind = kind}, {});
      return inner(y, dy);
    };
    CHECK(gradient_error(loss, x, dx) <= 1e-8);
  }
}

TEST_CASE("activation: bf16 is refused", "[activation]") {
  const Tensor x = full({4}, 1, DType::kBF16);
  check_refuses_bf16([&] { tested_kernels().activation_forward({.x = x, .y = x}, cpu_stream()); });
}

}  // namespace
}  // namespace dsv::test
