#include "dsv/kernels/linear.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::Activation;
using kernels::LinearBackward;
using kernels::LinearForward;
using kernels::reference_kernels;

struct Case {
  std::int64_t rows, K, N;
  bool bias = true;
  Activation activation = Activation::kNone;
  double scale = 1;          // of x and dy
  std::int64_t pad = 0;      // of the row strides of x, y, dy, and dx
  std::int64_t pre_pad = 1;  // beyond that, of the value before the activation
};

const std::vector<Case> kCases{
    {1, 1, 1},
    {1, 7, 5, false},
    {3, 16, 33, true, Activation::kSilu},
    {12, 32, 32, true, Activation::kGeluTanh, 1, 1},
    {13, 255, 31, true, Activation::kGeluErf, 8, 3},
    {25, 256, 64, true, Activation::kNone, 1, 16},
    {50, 257, 97, true, Activation::kGeluTanh, 32},
    {7, 600, 400, false, Activation::kNone, 128, 5},
    {131, 96, 385, true, Activation::kNone, 1, 7},
    {260, 40, 800, true, Activation::kGeluTanh},
    {601, 33, 17, true, Activation::kNone, 1e-3},
    {0, 8, 4},
    {5, 0, 4, true, Activation::kSilu},
};

// The f32 tensors of one case.
struct Data {
  Tensor x, weight, bias, dy, dx0, dweight0, dbias0;

  // `dtype` is that of everything but the gradients of parameters, which are f32.
  explicit Data(const Case& c, DType dtype = DType::kF32) {
    x = random({c.rows, c.K}, 1, c.scale, dtype, {0, c.pad});
    weight = random({c.N, c.K}, 2, 1, dtype);
    if (c.bias) bias = random({c.N}, 3, 1, dtype);
    dy = random({c.rows, c.N}, 4, c.scale, dtype, {0, c.pad});
    dx0 = random({c.rows, c.K}, 5, c.scale, dtype);
    dweight0 = random({c.N, c.K}, 6);
    dbias0 = random({c.N}, 7);
  }
  Data to_f64() const {
    Data out = *this;
    for (Tensor* t :
         {&out.x, &out.weight, &out.bias, &out.dy, &out.dx0, &out.dweight0, &out.dbias0}) {
      *t = converted(*t, DType::kF64);
    }
    return out;
  }
  // |every element|: what the rounding errors of sums are a share of.
  Data magnitudes() const {
    Data out = to_f64();
    for (Tensor* t :
         {&out.x, &out.weight, &out.bias, &out.dy, &out.dx0, &out.dweight0, &out.dbias0}) {
      if (!t->defined()) continue;
      for_each_element(*t, [t](std::int64_t at, auto, auto) {
        write_element(*t, at, std::fabs(read_element(*t, at)));
      });
    }
    return out;
  }
};

// The largest |got - want| as a multiple of kEps * magnitude, element by element.
double sum_error(const Tensor& got, const Tensor& want, const Tensor& magnitude) {
  const std::vector<double> g = values(got), w = values(want), m = values(magnitude);
  double worst = 0;
  for (std::size_t e = 0; e < g.size(); ++e) {
    const double distance = detail::distance(g[e], w[e]);
    if (std::isnan(distance)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, detail::relative(distance, kEps * m[e]));
  }
  return worst;
}

// The rounding errors of a sum of random terms grow like the sums on the way: their standard
// deviation is 0.5 to 0.8 of (unit of rounding) * sum |terms| at any number of terms. The largest
// of a million such errors is near five deviations; a wrong or missing term is beyond a thousand.
constexpr double kMaxSumError = 6;

std::vector<Output> forward(const Case& c, const Data& data, const Stream& stream) {
  std::vector<Output> out;
  const DType dtype = data.x.dtype();
  out.emplace_back(Shape{c.rows, c.N}, dtype, Shape{0, c.pad});
  const bool activates = c.activation != Activation::kNone;
  if (activates) out.emplace_back(Shape{c.rows, c.N}, dtype, Shape{0, c.pad + c.pre_pad});
  tested_kernels().linear_forward({.x = data.x,
                                   .weight = data.weight,
                                   .bias = data.bias,
                                   .y = out[0],
                                   .activation = c.activation,
                                   .pre_activation = activates ? out[1].tensor() : Tensor()},
                                  stream);
  return out;
}

// dx, dx added to, dweight, dbias.
std::vector<Output> backward(const Case& c, const Data& data, const Stream& stream) {
  std::vector<Output> out;
  out.emplace_back(Shape{c.rows, c.K}, data.x.dtype(), Shape{0, c.pad});
  out.push_back(Output::holding(data.dx0, {0, c.pad + 2}));
  out.push_back(Output::holding(data.dweight0));
  out.push_back(Output::holding(data.dbias0));
  const LinearBackward args{.x = data.x, .weight = data.weight, .dy = data.dy};
  LinearBackward first = args, second = args;
  first.dx = out[0];
  first.dbias = out[3];
  second.dx = out[1];
  second.accumulate_dx = true;
  second.dweight = out[2];
  tested_kernels().linear_backward(first, stream);
  tested_kernels().linear_backward(second, stream);
  return out;
}

TEST_CASE("linear: forward is within rounding of f64, whatever the threads", "[linear]") {
  for_each_backend([] {
    for (const Case& c : kCases) {
      CAPTURE(c.rows, c.K, c.N, c.pad, c.scale);
      const Data data(c), exact = data.to_f64(), sizes = data.magnitudes();
      const Tensor want = empty({c.rows, c.N}, DType::kF64), size = f64_like(want);
      reference_kernels().linear_forward(
          {.x = exact.x, .weight = exact.weight, .bias = exact.bias, .y = want}, {});
      reference_kernels().linear_forward(
          {.x = sizes.x, .weight = sizes.weight, .bias = sizes.bias, .y = size}, {});
      const auto got =
          same_for_any_threads([&](const Stream& stream) { return forward(c, data, stream); });
      const Tensor& sum = c.activation == Activation::kNone ? got[0] : got[1];
      CHECK(sum_error(sum, want, size) <= kMaxSumError);
      if (c.activation == Activation::kNone) continue;
      // y is what the activation kernel makes of the stored sum, to the bit.
      const Tensor pre = converted(sum, DType::kF32), y = empty(pre.shape());
      tested_kernels().activation_forward({.x = pre, .y = y, .kind = c.activation}, cpu_stream());
      CHECK(bitwise_equal(got[0], y));
    }
  });
}

TEST_CASE("linear: gradients are within rounding of f64, whatever the threads", "[linear]") {
  for_each_backend([] {
    for (const Case& c : kCases) {
      CAPTURE(c.rows, c.K, c.N, c.pad, c.scale);
      const Data data(c), exact = data.to_f64(), sizes = data.magnitudes();
      const auto reference = [](const Data& d, bool accumulate) {
        const Tensor dx = accumulate ? converted(d.dx0, DType::kF64) : f64_like(d.dx0);
        const Tensor dweight = converted(d.dweight0, DType::kF64);
        const Tensor dbias = converted(d.dbias0, DType::kF64);
        reference_kernels().linear_backward({.x = d.x,
                                             .weight = d.weight,
                                             .dy = d.dy,
                                             .dx = dx,
                                             .dweight = dweight,
                                             .dbias = dbias,
                                             .accumulate_dx = accumulate},
                                            {});
        return std::vector<Tensor>{dx, dweight, dbias};
      };
      const auto want = reference(exact, false), size = reference(sizes, false);
      const auto want_added = reference(exact, true), size_added = reference(sizes, true);
      const auto got =
          same_for_any_threads([&](const Stream& stream) { return backward(c, data, stream); });
      CHECK(sum_error(got[0], want[0], size[0]) <= kMaxSumError);
      CHECK(sum_error(got[1], want_added[0], size_added[0]) <= kMaxSumError);
      CHECK(sum_error(got[2], want[1], size[1]) <= kMaxSumError);
      CHECK(sum_error(got[3], want[2], size[2]) <= kMaxSumError);
    }
  });
}

// |got - want| in units of what bf16 allows: `rounded` values are rounded to bf16 once each on the
// way to the result, sums of products of size `magnitude` are in f32. Tensor cores align the terms
// of a sum before they add them, which costs two more bits than rounding after each addition.
double bf16_error(const Tensor& got, const Tensor& want, const Tensor& rounded,
                  const Tensor& magnitude) {
  const std::vector<double> g = values(got), w = values(want), r = values(rounded),
                            m = values(magnitude);
  double worst = 0;
  for (std::size_t e = 0; e < g.size(); ++e) {
    const double allowed = kEpsBf16 * r[e] + 4 * kMaxSumError * kEps * m[e];
    const double distance = detail::distance(g[e], w[e]);
    if (std::isnan(distance)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, detail::relative(distance, allowed));
  }
  return worst;
}

Tensor absolute(const Tensor& t) {
  const Tensor out = to_f64(t);
  for (std::int64_t e = 0; e < out.num_elements(); ++e) out.f64()[e] = std::fabs(out.f64()[e]);
  return out;
}

// Shapes of the model (aligned, strided columns of a fused matrix) and shapes that no library
// likes.
const std::vector<Case> kBf16Cases{
    {1, 1, 1},
    {3, 7, 5, false},
    {70, 129, 33, true, Activation::kSilu, 1, 3},
    {64, 64, 64},
    {200, 128, 192, true, Activation::kGeluTanh, 1, 0, 0},
    {200, 128, 192, true, Activation::kGeluTanh, 8, 8, 8},
    {200, 128, 192, false, Activation::kGeluTanh, 32, 0, 0},
    {200, 128, 192, true, Activation::kGeluErf, 128, 0, 0},
    {513, 256, 384, true, Activation::kNone, 1, 128},
    {1, 256, 1536, true, Activation::kNone},
    {300, 1536, 96, true, Activation::kNone, 32},
    {1111, 64, 72, true, Activation::kNone, 128},
    {0, 8, 8},
    {5, 0, 8},
};

TEST_CASE("linear: bf16 on the GPU is the rounded product", "[linear][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const Case& c : kBf16Cases) {
      CAPTURE(c.rows, c.K, c.N, c.bias, c.pad, c.scale, static_cast<int>(c.activation));
      const Data data(c, DType::kBF16), exact = data.to_f64(), sizes = data.magnitudes();
      const Tensor want = empty({c.rows, c.N}, DType::kF64), size = f64_like(want);
      reference_kernels().linear_forward(
          {.x = exact.x, .weight = exact.weight, .bias = exact.bias, .y = want}, {});
      reference_kernels().linear_forward(
          {.x = sizes.x, .weight = sizes.weight, .bias = sizes.bias, .y = size}, {});
      const auto got =
          same_for_any_threads([&](const Stream& stream) { return forward(c, data, stream); });
      const bool activates = c.activation != Activation::kNone;
      CHECK(bf16_error(activates ? got[1] : got[0], want, absolute(want), size) <= 1);
      if (!activates) continue;
      // The activation sees the sum before or after it was rounded; its slope is below 1.2.
      const Tensor y = f64_like(want), rounded = absolute(want), slope = to_f64(size);
      reference_kernels().activation_forward({.x = want, .y = y, .kind = c.activation}, {});
      for (std::int64_t e = 0; e < y.num_elements(); ++e) {
        rounded.f64()[e] = 1.2 * rounded.f64()[e] + std::fabs(y.f64()[e]);
        slope.f64()[e] *= 1.2;
      }
      CHECK(bf16_error(got[0], y, rounded, slope) <= 1);
    }
  });
}

TEST_CASE("linear: bf16 gradients on the GPU", "[linear][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const Case& c : kBf16Cases) {
      CAPTURE(c.rows, c.K, c.N, c.pad, c.scale);
      const Data data(c, DType::kBF16), exact = data.to_f64(), sizes = data.magnitudes();
      const auto reference = [](const Data& d, bool accumulate) {
        const Tensor dx = accumulate ? converted(d.dx0, DType::kF64) : f64_like(d.dx0);
        const Tensor dweight = converted(d.dweight0, DType::kF64);
        const Tensor dbias = converted(d.dbias0, DType::kF64);
        reference_kernels().linear_backward({.x = d.x,
                                             .weight = d.weight,
                                             .dy = d.dy,
                                             .dx = dx,
                                             .dweight = dweight,
                                             .dbias = dbias,
                                             .accumulate_dx = accumulate},
                                            {});
        return std::vector<Tensor>{dx, dweight, dbias};
      };
      const auto want = reference(exact, false), size = reference(sizes, false);
      const auto want_added = reference(exact, true), size_added = reference(sizes, true);
      const auto got =
          same_for_any_threads([&](const Stream& stream) { return backward(c, data, stream); });
      CHECK(bf16_error(got[0], want[0], absolute(want[0]), size[0]) <= 1);
      // The product may be rounded before dx is added to it: cuBLASLt's kernels for one row do that.
      const Tensor rounded = absolute(want_added[0]), product = absolute(want[0]);
      for (std::int64_t e = 0; e < rounded.num_elements(); ++e) {
        rounded.f64()[e] += product.f64()[e];
      }
      CHECK(bf16_error(got[1], want_added[0], rounded, size_added[0]) <= 1);
      // Gradients of parameters are f32: nothing is rounded to bf16.
      const Tensor nothing_w = full({c.N, c.K}, 0, DType::kF64);
      CHECK(bf16_error(got[2], want[1], nothing_w, size[1]) <= 1);
      CHECK(sum_error(got[3], want[2], size[2]) <= kMaxSumError);
    }
  });
}

TEST_CASE("linear: a row's result does not depend on the rows beside it", "[linear]") {
  // What makes data and sequence parallel runs agree with one rank to the bit.
  for_each_backend([] {
    const std::int64_t rows = 200, K = 300, N = 450;
    const Tensor x = random({rows, K}, 1), weight = random({N, K}, 2), dy = random({rows, N}, 3);
    const Tensor y = empty({rows, N}), dx = empty({rows, K});
    tested_kernels().linear_forward({.x = x, .weight = weight, .y = y}, cpu_stream(2));
    tested_kernels().linear_backward({.x = x, .weight = weight, .dy = dy, .dx = dx}, cpu_stream(2));
    for (const auto& [begin, end] :
         {std::pair<std::int64_t, std::int64_t>{0, 100}, {100, 200}, {37, 38}, {5, 130}}) {
      CAPTURE(begin, end);
      const Output part({end - begin, N}), dx_part({end - begin, K});
      tested_kernels().linear_forward({.x = x.slice(0, begin, end), .weight = weight, .y = part},
                                      cpu_stream());
      tested_kernels().linear_backward({.x = x.slice(0, begin, end),
                                        .weight = weight,
                                        .dy = dy.slice(0, begin, end),
                                        .dx = dx_part},
                                       cpu_stream());
      CHECK(bitwise_equal(part, y.slice(0, begin, end)));
      CHECK(bitwise_equal(dx_part, dx.slice(0, begin, end)));
    }
    // Nor does a column of y depend on the other columns.
    const Output columns({rows, 77});
    tested_kernels().linear_forward({.x = x, .weight = weight.slice(0, 300, 377), .y = columns},
                                    cpu_stream());
    CHECK(bitwise_equal(columns, y.slice(1, 300, 377)));
  });
}

TEST_CASE("linear: an output that is not asked for is not needed", "[linear]") {
  const Case c{20, 30, 40};
  const Data data(c);
  const auto all = backward(c, data, cpu_stream());
  const Output dbias = Output::holding(data.dbias0);
  tested_kernels().linear_backward(
      {.x = data.x, .weight = data.weight, .dy = data.dy, .dbias = dbias}, cpu_stream());
  CHECK(bitwise_equal(dbias, all[3]));
  tested_kernels().linear_backward({.x = data.x, .weight = data.weight, .dy = data.dy},
                                   cpu_stream());
}

TEST_CASE("linear: the reference's gradients are those of its forward", "[linear]") {
  const Case c{5, 4, 3};
  const Data data = Data(c).to_f64();
  const Tensor y = f64_like(data.dy), dx = f64_like(data.dx0);
  const Tensor dweight = full({c.N, c.K}, 0, DType::kF64), dbias = full({c.N}, 0, DType::kF64);
  reference_kernels().linear_backward({.x = data.x,
                                       .weight = data.weight,
                                       .dy = data.dy,
                                       .dx = dx,
                                       .dweight = dweight,
                                       .dbias = dbias},
                                      {});
  const auto loss = [&] {
    reference_kernels().linear_forward(
        {.x = data.x, .weight = data.weight, .bias = data.bias, .y = y}, {});
    return inner(y, data.dy);
  };
  CHECK(gradient_error(loss, data.x, dx) <= 1e-10);
  CHECK(gradient_error(loss, data.weight, dweight) <= 1e-10);
  CHECK(gradient_error(loss, data.bias, dbias) <= 1e-10);
}

TEST_CASE("linear: the reference applies the activations of the activation kernel", "[linear]") {
  const Data data = Data({5, 4, 3}).to_f64();
  for (const Activation kind : {Activation::kGeluTanh, Activation::kGeluErf, Activation::kSilu}) {
    const Tensor y = f64_like(data.dy), pre = f64_like(y), want = f64_like(y);
    reference_kernels().linear_forward({.x = data.x,
                                        .weight = data.weight,
                                        .bias = data.bias,
                                        .y = y,
                                        .activation = kind,
                                        .pre_activation = pre},
                                       {});
    reference_kernels().activation_forward({.x = pre, .y = want, .kind = kind}, {});
    CHECK(max_distance(y, want) <= 1e-14);
  }
}

TEST_CASE("linear: what the cpu does not do is refused", "[linear]") {
  const Tensor x = full({2, 3}, 1, DType::kBF16), w = full({4, 3}, 1, DType::kBF16);
  const Tensor y = full({2, 4}, 1, DType::kBF16);
  check_refuses_bf16(
      [&] { tested_kernels().linear_forward({.x = x, .weight = w, .y = y}, cpu_stream()); });
  check_refuses_bf16(
      [&] { tested_kernels().linear_backward({.x = x, .weight = w, .dy = y}, cpu_stream()); });
  const Data data({2, 3, 4});
  CHECK_THROWS_WITH(
      tested_kernels().linear_forward(
          {.x = data.x, .weight = data.weight, .y = empty({2, 4}), .activation = Activation::kSilu},
          cpu_stream()),
      Contains("needs a tensor for the value before it"));
}

}  // namespace
}  // namespace dsv::test
