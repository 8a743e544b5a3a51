#include "dsv/kernels/layer_norm.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

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

// Of the tensors that have one dtype or another.
struct Types {
  DType x = DType::kF32, y = DType::kF32, dx = DType::kF32;  // y: and dy
};

// What storing a value costs, relative to it: half the distance of two bf16 numbers next to 1.
constexpr double rounding_of(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : 0;
}

// The tensors of one case.
struct Data {
  Tensor x, weight, bias, scale, shift, dy, dx0, dweight0, dbias0;

  explicit Data(const Case& c, const Types& types = {}) {
    x = random({c.B, c.S, c.C}, 1, c.scale);
    for_each_element(x, [&](std::int64_t at, auto, auto) {
      write_element(x, at, read_element(x, at) + c.mean);
    });
    x = converted(x, types.x);
    dy = random({c.B, c.S, c.C}, 2, c.scale, types.y);
    dx0 = random({c.B, c.S, c.C}, 3, c.scale, types.dx);
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

void check_forward(const Case& c, const Types& types) {
  CAPTURE(c.B, c.S, c.C, c.affine, c.modulated, c.scale, c.mean);
  CAPTURE(to_string(types.x), to_string(types.y));
  const Data data(c, types), exact = data.to_f64();
  const Tensor y = f64_like(data.x), mean = empty({c.B, c.S}, DType::kF64),
               rstd = empty({c.B, c.S}, DType::kF64);
  reference_kernels().layer_norm_forward(exact.forward(y, mean, rstd), {});
  const auto got = same_for_any_threads([&](const Stream& stream) {
    std::vector<Output> out{Output({c.B, c.S, c.C}, types.y), Output({c.B, c.S}),
                            Output({c.B, c.S})};
    tested_kernels().layer_norm_forward(data.forward(out[0], out[1], out[2]), stream);
    return out;
  });
  CHECK(row_error(got[0], y) <= 8 * kEps + rounding_of(types.y));
  CHECK(max_distance(got[1], mean) <= 2 * kEps * (c.mean + c.scale));
  CHECK(tensor_error(got[2], rstd) <= 8 * kEps);
}

void check_backward(const Case& c, const Types& types, bool accumulate) {
  CAPTURE(c.B, c.S, c.C, c.affine, c.modulated, c.scale, c.mean, accumulate);
  CAPTURE(to_string(types.x), to_string(types.y), to_string(types.dx));
  const Data data(c, types);
  const Tensor y = empty({c.B, c.S, c.C}, types.y), mean = empty({c.B, c.S}),
               rstd = empty({c.B, c.S});
  tested_kernels().layer_norm_forward(data.forward(y, mean, rstd), {});
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
    std::vector<Output> out{accumulate ? Output::holding(data.dx0)
                                       : Output({c.B, c.S, c.C}, types.dx)};
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
    tested_kernels().layer_norm_backward(args, stream);
    return out;
  });
  // dx is what is left of terms of size rstd * |dy| |gain|, which may cancel.
  const double gain =
      (c.affine ? max_abs(data.weight) : 1) * (c.modulated ? 1 + max_abs(data.scale) : 1);
  const double size = max_abs(rstd) * max_abs(data.dy) * gain + max_abs(data.dx0);
  CHECK(max_distance(got[0], want.dx) <=
        8 * kEps * size + rounding_of(types.dx) * max_abs(want.dx));
  // A sum of n terms in chunks of rows is off by the terms' own rounding.
  const double terms = static_cast<double>(c.B * c.S) * max_abs(data.dy) * gain * 8;
  std::size_t next = 1;
  for (const Tensor* sum : {&want.dweight, &want.dbias, &want.dscale, &want.dshift}) {
    if (!sum->defined()) continue;
    CHECK(max_distance(got[next++], *sum) <= 0.5 * kEps * (terms + 4));
  }
}

TEST_CASE("layer_norm: forward is within rounding of the reference", "[layer_norm]") {
  for_each_backend([] {
    for (const Case& c : kCases) check_forward(c, {});
  });
}

TEST_CASE("layer_norm: backward is within rounding of the reference", "[layer_norm]") {
  for_each_backend([] {
    for (const Case& c : kCases) {
      for (const bool accumulate : {false, true}) check_backward(c, {}, accumulate);
    }
  });
}

// Rows in the registers of few and many threads, of 8 and of 16 elements each; rows that are no
// packs, or too wide; blocks that have several rows, and a rest.
const std::vector<Case> kGpuCases{
    {1, 1, 1, true, true},           {2, 0, 8, true, true},         {0, 4, 8, true, true},
    {2, 2101, 16, true, true, 8},    {1, 4100, 9, false, true},     {2, 19, 1536, false, true, 32},
    {1, 9, 3072, true, false},       {2, 9, 5120, true, true, 128}, {1, 3, 6144, false, true},
    {1, 9, 6152, true, true},        {1, 2, 20001, false, false},   {1, 130, 20, true, true, 8},
    {2, 40, 72, false, true, 8, 100}};

TEST_CASE("layer_norm: forward in bf16 on the GPU", "[layer_norm][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const Case& c : kGpuCases) {
      for (const DType x : {DType::kF32, DType::kBF16}) {
        for (const DType y : {DType::kF32, DType::kBF16}) check_forward(c, {.x = x, .y = y});
      }
    }
    // Several rows one after the other by several warps.
    check_forward({1, 2060, 264, true, true}, {.x = DType::kBF16, .y = DType::kBF16});
  });
}

TEST_CASE("layer_norm: backward in bf16 on the GPU", "[layer_norm][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    std::vector<Case> cases = kGpuCases;
    cases.push_back({1, 9001, 8, true, true});  // more than the least number of rows per sum
    for (const Case& c : cases) {
      for (const DType x : {DType::kF32, DType::kBF16}) {
        check_backward(c, {.x = x, .y = DType::kF32, .dx = x}, x == DType::kBF16);
        check_backward(c, {.x = x, .y = DType::kBF16, .dx = x}, false);
        check_backward(c, {.x = x, .y = DType::kBF16, .dx = x}, true);
      }
    }
  });
}

TEST_CASE("layer_norm: any dtype of x with any of dy and dx on the GPU", "[layer_norm][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const Case& c : {Case{2, 33, 40, true, true}, Case{1, 20, 33, true, true}}) {
      for (int types = 0; types < 8; ++types) {
        const auto dtype = [types](int bit) {
          return types >> bit & 1 ? DType::kBF16 : DType::kF32;
        };
        check_backward(c, {.x = dtype(0), .y = dtype(1), .dx = dtype(2)}, true);
      }
    }
  });
}

TEST_CASE("layer_norm: dx over dy and without sums in bf16 on the GPU", "[layer_norm][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const Case& c : {Case{2, 70, 37, true, true}, Case{2, 1100, 80, true, true},
                          Case{1, 12, 5120, true, true}}) {
      CAPTURE(c.B, c.S, c.C);
      const Data data(c, {.x = DType::kBF16, .y = DType::kBF16, .dx = DType::kBF16});
      const Tensor y = empty(data.x.shape(), DType::kBF16), mean = empty({c.B, c.S}),
                   rstd = empty({c.B, c.S});
      tested_kernels().layer_norm_forward(data.forward(y, mean, rstd), {});
      const auto run = [&](bool alias, bool sums) {
        LayerNormBackward args{.x = data.x,
                               .weight = data.weight,
                               .bias = data.bias,
                               .scale = data.scale,
                               .mean = mean,
                               .rstd = rstd,
                               .dy = converted(data.dy, DType::kBF16)};
        args.dx = alias ? args.dy : empty(data.x.shape(), DType::kBF16);
        if (sums) {
          args.dweight = full({c.C}, 0);
          args.dbias = full({c.C}, 0);
          args.dscale = empty({c.B, c.C});
          args.dshift = empty({c.B, c.C});
        }
        tested_kernels().layer_norm_backward(args, {});
        return args;
      };
      const LayerNormBackward apart = run(false, true), aliased = run(true, true);
      CHECK(bitwise_equal(aliased.dx, apart.dx));
      CHECK(bitwise_equal(aliased.dweight, apart.dweight));
      CHECK(bitwise_equal(aliased.dbias, apart.dbias));
      CHECK(bitwise_equal(aliased.dscale, apart.dscale));
      CHECK(bitwise_equal(aliased.dshift, apart.dshift));
      CHECK(bitwise_equal(run(true, false).dx, apart.dx));
    }
  });
}

TEST_CASE("layer_norm: a large mean does not cancel the variance", "[layer_norm]") {
  // Values 1e4 ± 0.25: exact in f32, so the normalised row is exactly ±1 but for eps.
  const std::int64_t C = 512;
  const Tensor x = empty({1, 1, C});
  for (std::int64_t c = 0; c < C; ++c) x.f32()[c] = c % 2 == 0 ? 1e4f + 0.25f : 1e4f - 0.25f;
  for_each_backend([&] {
    const Output y({1, 1, C}), mean({1, 1}), rstd({1, 1});
    tested_kernels().layer_norm_forward({.x = x, .y = y, .mean = mean, .rstd = rstd, .eps = 0},
                                        cpu_stream());
    CHECK(values(mean)[0] == 1e4);
    CHECK(values(rstd)[0] == 4);
    CHECK(values(y)[0] == 1);
    CHECK(values(y)[C - 1] == -1);
  });
}

TEST_CASE("layer_norm: dx may be written over dy", "[layer_norm]") {
  for_each_backend([] {
    const Case c{2, 70, 37, true, true};
    const Data data(c);
    const Tensor y = empty({c.B, c.S, c.C}), mean = empty({c.B, c.S}), rstd = empty({c.B, c.S});
    tested_kernels().layer_norm_forward(data.forward(y, mean, rstd), {});
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
    for (const auto* table : {&tested_kernels(), &reference_kernels()}) {
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
  for_each_backend([] {
    const Tensor x = random({1, 3, 40}, 1);
    x.f32()[5] = NAN;
    x.f32()[45] = INFINITY;
    const Output y({1, 3, 40}), mean({1, 3}), rstd({1, 3});
    tested_kernels().layer_norm_forward({.x = x, .y = y, .mean = mean, .rstd = rstd}, cpu_stream());
    const std::vector<double> v = values(y);
    for (std::size_t e = 0; e < 120; ++e) CHECK(std::isnan(v[e]) == (e < 80));
  });
}

TEST_CASE("layer_norm: bf16 is refused", "[layer_norm]") {
  const Tensor x = full({1, 1, 4}, 1, DType::kBF16), y = x, mean = empty({1, 1});
  check_refuses_bf16([&] {
    tested_kernels().layer_norm_forward({.x = x, .y = y, .mean = mean, .rstd = mean}, cpu_stream());
  });
}

}  // namespace
}  // namespace dsv::test
