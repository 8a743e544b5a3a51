#include "dsv/kernels/layer_norm.h"

#include "kernels/support/cpu_checks.h"

namespace dsv::test {
namespace {

using kernels::cpu_kernels;
using kernels::LayerNormBackward;
using kernels::LayerNormForward;
using kernels::reference_kernels;

struct Case {
  std::int64_t B, S, C;
  bool affine, modulated;
  double scale = 1;  // of x and dy
  double mean = 0;   // added to x
};

const std::vector<Case> kCases{
    {1, 1, 1, false, false},         {1, 1, 2, true, true},
    {2, 3, 5, true, false},          {2, 7, 16, false, true},
    {3, 65, 33, true, true},         {1, 130, 127, true, true, 8},
    {2, 257, 96, true, true, 32},    {1, 300, 384, false, true, 128},
    {2, 64, 100, false, false},      {0, 4, 8, true, true},
    {2, 0, 8, true, true},           {1, 5, 1030, true, true, 1e-3},
    {1, 9, 192, true, true, 1, 1e4}, {2, 40, 72, false, true, 0.05, 1e4},
};

// The tensors of one case; `dtype` for all of them.
struct Data {
  Tensor x, weight, bias, scale, shift, dy, dx0, dweight0, dbias0;

  explicit Data(const Case& c) {
    x = random({c.B, c.S, c.C}, 1, c.scale);
    for_each_element(x, [&](std::int64_t at, auto, auto) {
      write_element(x, at, read_element(x, at) + c.mean);
    });
    dy = random({c.B, c.S, c.C}, 2, c.scale);
    dx0 = random({c.B, c.S, c.C}, 3, c.scale);
    if (c.affine) {
      weight = random({c.C}, 4);
      bias = random({c.C}, 5);
      dweight0 = random({c.C}, 6);
      dbias0 = random({c.C}, 7);
    }
    if (c.modulated) {
      scale = random({c.B, c.C}, 8, 0.5, DType::kF32, {0, 3});  // rows of a larger table
      shift = random({c.B, c.C}, 9, 0.5, DType::kF32, {0, 5});
    }
  }
  Data to_f64() const {
    Data out = *this;
    for (Tensor* t : {&out.x, &out.weight, &out.bias, &out.scale, &out.shift, &out.dy, &out.dx0,
                      &out.dweight0, &out.dbias0}) {
      *t = converted(*t, DType::kF64);
    }
    return out;
  }
  LayerNormForward forward(const Tensor& y, const Tensor& mean, const Tensor& rstd) const {
    return {.x = x,
            .weight = weight,
            .bias = bias,
            .scale = scale,
            .shift = shift,
            .y = y,
            .mean = mean,
            .rstd = rstd,
            .eps = 1e-6f};
  }
};

TEST_CASE("layer_norm: two channels by hand", "[layer_norm]") {
  const Tensor x = empty({1, 1, 2}), scale = empty({1, 2}), shift = empty({1, 2});
  x.f32()[0] = 1, x.f32()[1] = 3;
  scale.f32()[0] = 1, scale.f32()[1] = 0;
  shift.f32()[0] = 0, shift.f32()[1] = 5;
  const Tensor y = empty({1, 1, 2}), mean = empty({1, 1}), rstd = empty({1, 1});
  reference_kernels().layer_norm_forward(
      {.x = x, .scale = scale, .shift = shift, .y = y, .mean = mean, .rstd = rstd, .eps = 0}, {});
  CHECK(values(mean) == std::vector<double>{2});
  CHECK(values(rstd) == std::vector<double>{1});
  CHECK(values(y) == std::vector<double>{-2, 6});
}

TEST_CASE("layer_norm: forward is within rounding of the reference", "[layer_norm]") {
  for_each_isa([] {
    for (const Case& c : kCases) {
      CAPTURE(c.B, c.S, c.C, c.affine, c.modulated, c.scale, c.mean);
      const Data data(c), exact = data.to_f64();
      const Tensor y = f64_like(data.x), mean = empty({c.B, c.S}, DType::kF64),
                   rstd = empty({c.B, c.S}, DType::kF64);
      reference_kernels().layer_norm_forward(exact.forward(y, mean, rstd), {});
      const auto got = same_for_any_threads([&](const Stream& stream) {
        std::vector<Output> out{Output({c.B, c.S, c.C}), Output({c.B, c.S}), Output({c.B, c.S})};
        cpu_kernels().layer_norm_forward(data.forward(out[0], out[1], out[2]), stream);
        return out;
      });
      CHECK(row_error(got[0], y) <= 8 * kEps);
      CHECK(max_distance(got[1], mean) <= 2 * kEps * (c.mean + c.scale));
      CHECK(tensor_error(got[2], rstd) <= 8 * kEps);
    }
  });
}

TEST_CASE("layer_norm: backward is within rounding of the reference", "[layer_norm]") {
  for_each_isa([] {
    for (const Case& c : kCases) {
      for (const bool accumulate : {false, true}) {
        CAPTURE(c.B, c.S, c.C, c.affine, c.modulated, c.scale, c.mean, accumulate);
        const Data data(c);
        const Tensor y = empty({c.B, c.S, c.C}), mean = empty({c.B, c.S}), rstd = empty({c.B, c.S});
        cpu_kernels().layer_norm_forward(data.forward(y, mean, rstd), {});
        // Both sides get the same f32 statistics.
        const auto arguments = [&](const Data& d, const Tensor& m, const Tensor& r) {
          return LayerNormBackward{.x = d.x,
                                   .weight = d.weight,
                                   .bias = d.bias,
                                   .scale = d.scale,
                                   .mean = m,
                                   .rstd = r,
                                   .dy = d.dy,
                                   .accumulate_dx = accumulate};
        };
        const Data exact = data.to_f64();
        LayerNormBackward want = arguments(exact, to_f64(mean), to_f64(rstd));
        want.dx = to_f64(data.dx0);
        want.dweight = exact.dweight0;
        want.dbias = exact.dbias0;
        if (c.modulated) {
          want.dscale = empty({c.B, c.C}, DType::kF64);
          want.dshift = empty({c.B, c.C}, DType::kF64);
        }
        reference_kernels().layer_norm_backward(want, {});
        const auto got = same_for_any_threads([&](const Stream& stream) {
          LayerNormBackward args = arguments(data, mean, rstd);
          std::vector<Output> out{accumulate ? Output::holding(data.dx0) : Output({c.B, c.S, c.C})};
          args.dx = out[0];
          if (c.affine) {
            out.push_back(Output::holding(data.dweight0));
            args.dweight = out.back();
            out.push_back(Output::holding(data.dbias0));
            args.dbias = out.back();
          }
          if (c.modulated) {
            out.push_back(Output({c.B, c.C}, DType::kF32, {0, 3}));
            args.dscale = out.back();
            out.push_back(Output({c.B, c.C}, DType::kF32, {0, 5}));
            args.dshift = out.back();
          }
          cpu_kernels().layer_norm_backward(args, stream);
          return out;
        });
        // dx is what is left of terms of size rstd * |dy| |gain|, which may cancel.
        const double gain =
            (c.affine ? max_abs(data.weight) : 1) * (c.modulated ? 1 + max_abs(data.scale) : 1);
        const double size = max_abs(rstd) * max_abs(data.dy) * gain + max_abs(data.dx0);
        CHECK(max_distance(got[0], want.dx) <= 8 * kEps * size);
        // A sum of n terms in chunks of 64 rows is off by the terms' own rounding.
        const double terms = static_cast<double>(c.B * c.S) * max_abs(data.dy) * gain * 8;
        std::size_t next = 1;
        for (const Tensor* sum : {&want.dweight, &want.dbias, &want.dscale, &want.dshift}) {
          if (!sum->defined()) continue;
          CHECK(max_distance(got[next++], *sum) <= 0.5 * kEps * (terms + 4));
        }
      }
    }
  });
}

TEST_CASE("layer_norm: a large mean does not cancel the variance", "[layer_norm]") {
  // Values 1e4 ± 0.25: exact in f32, so the normalised row is exactly ±1 but for eps.
  const std::int64_t C = 512;
  const Tensor x = empty({1, 1, C});
  for (std::int64_t c = 0; c < C; ++c) x.f32()[c] = c % 2 == 0 ? 1e4f + 0.25f : 1e4f - 0.25f;
  for_each_isa([&] {
    const Output y({1, 1, C}), mean({1, 1}), rstd({1, 1});
    cpu_kernels().layer_norm_forward({.x = x, .y = y, .mean = mean, .rstd = rstd, .eps = 0},
                                     cpu_stream());
    CHECK(values(mean)[0] == 1e4);
    CHECK(values(rstd)[0] == 4);
    CHECK(values(y)[0] == 1);
    CHECK(values(y)[C - 1] == -1);
  });
}

TEST_CASE("layer_norm: dx may be written over dy", "[layer_norm]") {
  for_each_isa([] {
    const Case c{2, 70, 37, true, true};
    const Data data(c);
    const Tensor y = empty({c.B, c.S, c.C}), mean = empty({c.B, c.S}), rstd = empty({c.B, c.S});
    cpu_kernels().layer_norm_forward(data.forward(y, mean, rstd), {});
    const auto run = [&](const kernels::KernelTable& table, bool alias) {
      const Tensor dy = converted(data.dy, DType::kF32), apart = empty({c.B, c.S, c.C});
      const Tensor dscale = empty({c.B, c.C}), dshift = empty({c.B, c.C});
      const Tensor dx = alias ? dy : apart;
      table.layer_norm_backward({.x = data.x,
                                 .weight = data.weight,
                                 .bias = data.bias,
                                 .scale = data.scale,
                                 .mean = mean,
                                 .rstd = rstd,
                                 .dy = dy,
                                 .dx = dx,
                                 .dweight = converted(data.dweight0, DType::kF32),
                                 .dbias = converted(data.dbias0, DType::kF32),
                                 .dscale = dscale,
                                 .dshift = dshift},
                                cpu_stream(2));
      return std::vector<Tensor>{dx, dscale, dshift};
    };
    for (const auto* table : {&cpu_kernels(), &reference_kernels()}) {
      const auto apart = run(*table, false), aliased = run(*table, true);
      for (std::size_t i = 0; i < apart.size(); ++i) CHECK(bitwise_equal(apart[i], aliased[i]));
    }
  });
}

TEST_CASE("layer_norm: the reference's gradients are those of finite differences", "[layer_norm]") {
  for (const bool affine : {false, true}) {
    for (const bool modulated : {false, true}) {
      CAPTURE(affine, modulated);
      const Case c{2, 3, 5, affine, modulated};
      const Data data = Data(c).to_f64();
      const Tensor y = f64_like(data.x), mean = empty({c.B, c.S}, DType::kF64),
                   rstd = empty({c.B, c.S}, DType::kF64);
      const auto loss = [&] {
        reference_kernels().layer_norm_forward(data.forward(y, mean, rstd), {});
        return inner(y, data.dy);
      };
      loss();
      const auto zeros = [&](bool wanted, const Shape& shape) {
        return wanted ? full(shape, 0, DType::kF64) : Tensor();
      };
      LayerNormBackward args{.x = data.x,
                             .weight = data.weight,
                             .bias = data.bias,
                             .scale = data.scale,
                             .mean = mean,
                             .rstd = rstd,
                             .dy = data.dy,
                             .dx = f64_like(data.x),
                             .dweight = zeros(affine, {c.C}),
                             .dbias = zeros(affine, {c.C}),
                             .dscale = zeros(modulated, {c.B, c.C}),
                             .dshift = zeros(modulated, {c.B, c.C})};
      reference_kernels().layer_norm_backward(args, {});
      CHECK(gradient_error(loss, data.x, args.dx) <= 1e-8);
      if (affine) CHECK(gradient_error(loss, data.weight, args.dweight) <= 1e-8);
      if (affine) CHECK(gradient_error(loss, data.bias, args.dbias) <= 1e-8);
      if (modulated) CHECK(gradient_error(loss, data.scale, args.dscale) <= 1e-8);
      if (modulated) CHECK(gradient_error(loss, data.shift, args.dshift) <= 1e-8);
      // Added to, not overwritten.
      const Tensor dx = f64_like(data.x), base = random({c.B, c.S, c.C}, 20, 1, DType::kF64);
      args.accumulate_dx = true;
      const std::vector<double> gradient = values(args.dx), before = values(base);
      args.dx = base;
      reference_kernels().layer_norm_backward(args, {});
      const std::vector<double> after = values(base);
      for (std::size_t e = 0; e < after.size(); ++e) {
        CHECK(after[e] == Approx(before[e] + gradient[e]).epsilon(1e-12));
      }
    }
  }
}

TEST_CASE("layer_norm: a NaN stays in its row, an infinity becomes one", "[layer_norm]") {
  for_each_isa([] {
    const Tensor x = random({1, 3, 40}, 1);
    x.f32()[5] = NAN;
    x.f32()[45] = INFINITY;
    const Output y({1, 3, 40}), mean({1, 3}), rstd({1, 3});
    cpu_kernels().layer_norm_forward({.x = x, .y = y, .mean = mean, .rstd = rstd}, cpu_stream());
    const std::vector<double> v = values(y);
    for (std::size_t e = 0; e < 120; ++e) CHECK(std::isnan(v[e]) == (e < 80));
  });
}

TEST_CASE("layer_norm: bf16 is refused", "[layer_norm]") {
  const Tensor x = full({1, 1, 4}, 1, DType::kBF16), y = x, mean = empty({1, 1});
  check_refuses_bf16([&] {
    cpu_kernels().layer_norm_forward({.x = x, .y = y, .mean = mean, .rstd = mean}, cpu_stream());
  });
}

}  // namespace
}  // namespace dsv::test
