// Three products (cpu/gemm.h). Bias and activation are applied to a strip of y while it is still in
// the cache of the thread that computed it.
#define HWY_TARGET_INCLUDE "linear/linear_cpu.cpp"
#include "cpu/targets.h"
#include <hwy/foreach_target.h>

#include <algorithm>

#include "cpu/arguments.h"
#include "cpu/gemm.h"
#include "cpu/math-inl.h"
#include "cpu/parallel.h"
#include "tables/entries.h"

#ifndef DSV_LINEAR_TYPES
#define DSV_LINEAR_TYPES
namespace dsv::kernels::cpu {
// A strip of rows: sum holds x * weight^T and becomes the value before the activation.
struct LinearStrip {
  float* sum;
  std::int64_t sum_stride;
  const float* bias;  // null: none
  Activation activation;
  float* y;  // not written without an activation, when sum is y
  std::int64_t y_stride;
  std::int64_t num_rows, num_columns;
};
// Columns of dy, whose sums are added to dbias.
struct LinearBiasColumns {
  const float* dy;
  std::int64_t stride, num_rows, num_columns;
  float* dbias;
};
constexpr std::int64_t kBiasColumns = 512;  // at most, at a time
}  // namespace dsv::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

template <typename Act>
HWY_INLINE void finish_rows(const LinearStrip& strip, const Act& act) {
  const bool writes_y = strip.activation != Activation::kNone;
  for (std::int64_t r = 0; r < strip.num_rows; ++r) {
    float *sum = strip.sum + r * strip.sum_stride, *y = strip.y + r * strip.y_stride;
    for_each_vector(strip.num_columns, [&](auto at) HWY_ATTR {
      VecF32 value = at.load(sum);
      if (strip.bias != nullptr) {
        value = hn::Add(value, at.load(strip.bias));
        at.store(value, sum);
      }
      if (writes_y) at.store(act(value), y);
    });
  }
}

void linear_finish_strip(const LinearStrip& strip) {
  switch (strip.activation) {
    case Activation::kNone:
      return finish_rows(strip, [](VecF32 x) HWY_ATTR { return x; });
    case Activation::kGeluTanh:
      return finish_rows(strip, [](VecF32 x) HWY_ATTR { return gelu_tanh(x); });
    case Activation::kGeluErf:
      return finish_rows(strip, [](VecF32 x) HWY_ATTR { return gelu_erf(x); });
    case Activation::kSilu:
      return finish_rows(strip, [](VecF32 x) HWY_ATTR { return silu(x); });
  }
}

// Rows are added up in f32 in chunks, chunks in f64: the order depends on the number of rows alone.
void linear_bias_columns(const LinearBiasColumns& columns) {
  constexpr std::int64_t kChunk = 64;
  const std::int64_t n = columns.num_columns;
  HWY_ALIGN float chunk_sum[kBiasColumns];
  double sum[kBiasColumns];
  for (std::int64_t c = 0; c < n; ++c) sum[c] = static_cast<double>(columns.dbias[c]);
  for (std::int64_t begin = 0; begin < columns.num_rows; begin += kChunk) {
    std::fill_n(chunk_sum, n, 0.0f);
    const std::int64_t end = std::min(columns.num_rows, begin + kChunk);
    for (std::int64_t r = begin; r < end; ++r) {
      const float* row = columns.dy + r * columns.stride;
      for_each_vector(n, [&](auto at) HWY_ATTR {
        at.store(hn::Add(at.load(chunk_sum), at.load(row)), chunk_sum);
      });
    }
    for (std::int64_t c = 0; c < n; ++c) sum[c] += static_cast<double>(chunk_sum[c]);
  }
  for (std::int64_t c = 0; c < n; ++c) columns.dbias[c] = static_cast<float>(sum[c]);
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {
namespace {

HWY_EXPORT(linear_finish_strip);
HWY_EXPORT(linear_bias_columns);

GemmOperand operand(const Tensor& t) { return {.data = t.f32(), .stride = t.stride(0)}; }
GemmOperand transposed(const Tensor& t) {
  return {.data = t.f32(), .stride = t.stride(0), .transposed = true};
}

}  // namespace

void linear_forward(const LinearForward& args, const Stream& stream) {
  require_f32("linear", {&args.x, &args.weight, &args.bias, &args.y, &args.pre_activation});
  const bool activates = args.activation != Activation::kNone;
  DSV_CHECK(!activates || args.pre_activation.defined(),
            "[linear] an activation needs a tensor for the value before it");
  const Tensor& sum = activates ? args.pre_activation : args.y;
  const float* bias = args.bias ? args.bias.f32() : nullptr;
  Gemm g{.M = args.x.dim(0), .N = args.weight.dim(0), .K = args.x.dim(1),
         .a = operand(args.x), .b = transposed(args.weight),
         .c = sum.f32(), .c_stride = sum.stride(0)};
  if (activates || bias != nullptr) {
    g.finish = [&](std::int64_t row, std::int64_t num_rows, std::int64_t column,
                   std::int64_t num_columns) {
      HWY_DYNAMIC_DISPATCH(linear_finish_strip)
      ({.sum = sum.f32() + row * sum.stride(0) + column, .sum_stride = sum.stride(0),
        .bias = bias != nullptr ? bias + column : nullptr, .activation = args.activation,
        .y = args.y.f32() + row * args.y.stride(0) + column, .y_stride = args.y.stride(0),
        .num_rows = num_rows, .num_columns = num_columns});
    };
  }
  gemm(g, stream);
}

void linear_backward(const LinearBackward& args, const Stream& stream) {
  require_f32("linear", {&args.x, &args.weight, &args.dy, &args.dx, &args.dweight, &args.dbias});
  const std::int64_t rows = args.x.dim(0), K = args.x.dim(1), N = args.weight.dim(0);
  if (args.dx) {
    gemm({.M = rows, .N = K, .K = N, .a = operand(args.dy), .b = operand(args.weight),
          .c = args.dx.f32(), .c_stride = args.dx.stride(0), .accumulate = args.accumulate_dx},
         stream);
  }
  if (args.dweight) {
    gemm({.M = N, .N = K, .K = rows, .a = transposed(args.dy), .b = operand(args.x),
          .c = args.dweight.f32(), .c_stride = K, .accumulate = true},
         stream);
  }
  if (args.dbias) {
    constexpr std::int64_t kGrain = 64;  // columns, a few cache lines
    parallel_for(stream, N, kGrain, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t c = begin; c < end; c += kBiasColumns) {
        HWY_DYNAMIC_DISPATCH(linear_bias_columns)
        ({.dy = args.dy.f32() + c, .stride = args.dy.stride(0), .num_rows = rows,
          .num_columns = std::min(kBiasColumns, end - c), .dbias = args.dbias.f32() + c});
      }
    });
  }
}

}  // namespace dsv::kernels::cpu
#endif
