#include "dsv/kernels/gated_residual.h"

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::GatedResidualBackward;
using kernels::reference_kernels;

// What storing a value costs, relative to it: half the distance of two bf16 numbers next to 1.
constexpr double rounding_of(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : 0;
}

struct Case {
  std::int64_t B, S, C;
  bool gated;
  double scale = 1;
};

const std::vector<Case> kCases{
    {1, 1, 1, true},         {1, 1, 3, false},        {2, 5, 16, true},
    {3, 67, 33, true, 8},    {2, 131, 130, true, 32}, {2, 131, 130, false},
    {1, 400, 96, true, 128}, {2, 0, 8, true},         {0, 3, 8, true}};

TEST_CASE("gated_residual: by hand", "[gated_residual]") {
  const Tensor x = full({1, 1, 1}, 1), h = full({1, 1, 1}, 3), gate = full({1, 1}, 10),
               y = empty({1, 1, 1});
  reference_kernels().gated_residual_forward({.x = x, .h = h, .gate = gate, .y = y}, {});
  CHECK(y.f32()[0] == 31);
  reference_kernels().gated_residual_forward({.x = x, .h = h, .y = y}, {});
  CHECK(y.f32()[0] == 4);
}

// `stream_dtype` of x, y, and dy, `branch_dtype` of h and dh.
void check_both_ways(const Case& c, DType stream_dtype, DType branch_dtype) {
  CAPTURE(c.B, c.S, c.C, c.gated, c.scale, to_string(stream_dtype), to_string(branch_dtype));
  const Shape shape{c.B, c.S, c.C};
  const Tensor x = random(shape, 1, c.scale, stream_dtype),
               h = random(shape, 2, c.scale, branch_dtype),
               dy = random(shape, 3, c.scale, stream_dtype);
  const Tensor gate = c.gated ? random({c.B, c.C}, 4, 1, DType::kF32, {0, 7}) : Tensor();
  const Tensor gate64 = converted(gate, DType::kF64);
  const Tensor y = empty(shape, DType::kF64), dh = empty(shape, DType::kF64);
  reference_kernels().gated_residual_forward(
      {.x = to_f64(x), .h = to_f64(h), .gate = gate64, .y = y}, {});
  GatedResidualBackward want{.h = to_f64(h), .gate = gate64, .dy = to_f64(dy), .dh = dh};
  if (c.gated) want.dgate = empty({c.B, c.C}, DType::kF64);
  reference_kernels().gated_residual_backward(want, {});
  const auto got = same_for_any_threads([&](const Stream& stream) {
    std::vector<Output> out{Output(shape, stream_dtype), Output(shape, branch_dtype)};
    tested_kernels().gated_residual_forward({.x = x, .h = h, .gate = gate, .y = out[0]}, stream);
    GatedResidualBackward args{.h = h, .gate = gate, .dy = dy, .dh = out[1]};
    if (c.gated) {
      out.push_back(Output({c.B, c.C}, DType::kF32, {0, 3}));
      args.dgate = out.back();
    }
    tested_kernels().gated_residual_backward(args, stream);
    return out;
  });
  CHECK(row_error(got[0], y) <= 3 * kEps + rounding_of(stream_dtype));
  CHECK(row_error(got[1], dh) <= kEps + rounding_of(branch_dtype));
  if (!c.gated) {
    if (stream_dtype == branch_dtype) CHECK(bitwise_equal(got[1], dy));
    return;
  }
  const double terms = static_cast<double>(c.S) * max_abs(dy) * max_abs(h);
  CHECK(max_distance(got[2], want.dgate) <= kEps * terms);

  // Without dgate, h is not needed and dh stays the same.
  const Output alone(shape, branch_dtype);
  tested_kernels().gated_residual_backward({.gate = gate, .dy = dy, .dh = alone}, cpu_stream(2));
  CHECK(bitwise_equal(alone, got[1]));
}

TEST_CASE("gated_residual: both ways within rounding of the reference", "[gated_residual]") {
  for_each_backend([] {
    for (const Case& c : kCases) check_both_ways(c, DType::kF32, DType::kF32);
  });
}

TEST_CASE("gated_residual: both ways in bf16 on the GPU", "[gated_residual][gpu]") {
  DSV_NEEDS_GPU();
  // One and several blocks of columns; columns that are no packs; runs of rows and a rest.
  const std::vector<Case> cases{
      {1, 1, 1, true},        {2, 0, 8, true},          {0, 3, 8, true},     {2, 2101, 16, true, 8},
      {1, 4100, 9, true, 32}, {2, 13, 1536, true, 128}, {2, 7, 5120, false}, {1, 13, 2056, true},
      {1, 9001, 8, true},     {2, 131, 36, true}};
  on_gpu([&] {
    for (const Case& c : cases) {
      for (const DType stream : {DType::kF32, DType::kBF16}) {
        for (const DType branch : {DType::kF32, DType::kBF16}) check_both_ways(c, stream, branch);
      }
    }
  });
}

TEST_CASE("gated_residual: y over x in bf16 on the GPU", "[gated_residual][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const Case& c : {Case{2, 3001, 16, true}, Case{2, 9, 21, true}, Case{1, 9, 64, false}}) {
      CAPTURE(c.B, c.S, c.C);
      const Shape shape{c.B, c.S, c.C};
      const Tensor x = random(shape, 1, 1, DType::kBF16), h = random(shape, 2, 1, DType::kBF16),
                   gate = c.gated ? random({c.B, c.C}, 3) : Tensor();
      const Tensor y = empty(shape, DType::kBF16), in_place = converted(x, DType::kBF16);
      tested_kernels().gated_residual_forward({.x = x, .h = h, .gate = gate, .y = y}, {});
      tested_kernels().gated_residual_forward({.x = in_place, .h = h, .gate = gate, .y = in_place},
                                              {});
      CHECK(bitwise_equal(in_place, y));
    }
  });
}

TEST_CASE("gated_residual: y may be x", "[gated_residual]") {
  for_each_backend([] {
    const Tensor x = random({2, 9, 21}, 1), h = random({2, 9, 21}, 2), gate = random({2, 21}, 3);
    for (const auto* table : {&tested_kernels(), &reference_kernels()}) {
      const Tensor y = empty({2, 9, 21}), in_place = converted(x, DType::kF32);
      table->gated_residual_forward({.x = x, .h = h, .gate = gate, .y = y}, cpu_stream());
      table->gated_residual_forward({.x = in_place, .h = h, .gate = gate, .y = in_place},
                                    cpu_stream());
      CHECK(bitwise_equal(in_place, y));
    }
  });
}

TEST_CASE("gated_residual: the reference's gradients are those of finite differences",
          "[gated_residual]") {
  const Shape shape{2, 3, 4};
  const Tensor x = random(shape, 1, 1, DType::kF64), h = random(shape, 2, 1, DType::kF64),
               gate = random({2, 4}, 3, 1, DType::kF64), dy = random(shape, 4, 1, DType::kF64);
  const Tensor y = f64_like(x), dh = f64_like(h), dgate = f64_like(gate);
  const auto loss = [&] {
    reference_kernels().gated_residual_forward({.x = x, .h = h, .gate = gate, .y = y}, {});
    return inner(y, dy);
  };
  reference_kernels().gated_residual_backward(
      {.h = h, .gate = gate, .dy = dy, .dh = dh, .dgate = dgate}, {});
  CHECK(gradient_error(loss, x, dy) <= 1e-9);
  CHECK(gradient_error(loss, h, dh) <= 1e-9);
  CHECK(gradient_error(loss, gate, dgate) <= 1e-9);
}

TEST_CASE("gated_residual: bf16 is refused", "[gated_residual]") {
  const Tensor x = full({1, 1, 4}, 1, DType::kBF16);
  check_refuses_bf16(
      [&] { tested_kernels().gated_residual_forward({.x = x, .h = x, .y = x}, cpu_stream()); });
}

}  // namespace
}  // namespace dsv::test
