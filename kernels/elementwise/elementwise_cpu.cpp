#define HWY_TARGET_INCLUDE "elementwise/elementwise_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include <algorithm>

#include "cpu/arguments.h"
#include "cpu/map-inl.h"
#include "cpu/parallel.h"
#include "cpu/row_chunks.h"
#include "rounding.h"
#include "tables/entries.h"

#ifndef DSV_ELEMENTWISE_FORMATS
#define DSV_ELEMENTWISE_FORMATS
namespace dsv::kernels::cpu {

// What is stored, and the type it is computed in: read() is exact, write() rounds once.
template <DType dtype>
struct Format;
template <>
struct Format<DType::kF32> {
  using Stored = float;
  static float read(Stored x) { return x; }
  static Stored write(float x) { return x; }
  static Stored write(double x) { return static_cast<float>(x); }
};
template <>
struct Format<DType::kF64> {
  using Stored = double;
  static double read(Stored x) { return x; }
  static Stored write(float x) { return static_cast<double>(x); }
  static Stored write(double x) { return x; }
};
template <>
struct Format<DType::kBF16> {
  using Stored = std::uint16_t;
  static float read(Stored x) { return f32_from_bf16(x); }
  static Stored write(float x) { return bf16_from_f32(x); }
  static Stored write(double x) { return bf16_from_f32(round_to_odd(x)); }
};
template <>
struct Format<DType::kF16> {
  using Stored = std::uint16_t;
  static float read(Stored x) { return f32_from_f16(x); }
  static Stored write(float x) { return f16_from_f32(x); }
  static Stored write(double x) { return f16_from_f32(round_to_odd(x)); }
};

}  // namespace dsv::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// Plain loops, which the compiler turns into vectors of this target.
template <DType kFrom, DType kTo>
void convert(const void* from, void* to, std::int64_t begin, std::int64_t end) {
  const auto* x = static_cast<const typename Format<kFrom>::Stored*>(from);
  auto* y = static_cast<typename Format<kTo>::Stored*>(to);
  for (std::int64_t i = begin; i < end; ++i) y[i] = Format<kTo>::write(Format<kFrom>::read(x[i]));
}

template <DType kFrom>
void convert_to(DType to_type, const void* from, void* to, std::int64_t begin, std::int64_t end) {
  switch (to_type) {
    case DType::kF32:
      return convert<kFrom, DType::kF32>(from, to, begin, end);
    case DType::kBF16:
      return convert<kFrom, DType::kBF16>(from, to, begin, end);
    case DType::kF16:
      return convert<kFrom, DType::kF16>(from, to, begin, end);
    default:
      return convert<kFrom, DType::kF64>(from, to, begin, end);
  }
}

void cast_elements(DType from_type, DType to_type, const void* from, void* to, std::int64_t begin,
                   std::int64_t end) {
  switch (from_type) {
    case DType::kF32:
      return convert_to<DType::kF32>(to_type, from, to, begin, end);
    case DType::kBF16:
      return convert_to<DType::kBF16>(to_type, from, to, begin, end);
    case DType::kF16:
      return convert_to<DType::kF16>(to_type, from, to, begin, end);
    default:
      return convert_to<DType::kF64>(to_type, from, to, begin, end);
  }
}

template <DType kX, DType kY>
void scaled_sum(const void* x_data, void* y_data, float a, float b, std::int64_t n) {
  const auto* x = static_cast<const typename Format<kX>::Stored*>(x_data);
  auto* y = static_cast<typename Format<kY>::Stored*>(y_data);
  if (b == 0) {
    for (std::int64_t i = 0; i < n; ++i) y[i] = Format<kY>::write(a * Format<kX>::read(x[i]));
  } else {
    for (std::int64_t i = 0; i < n; ++i) {
      y[i] = Format<kY>::write(a * Format<kX>::read(x[i]) + b * Format<kY>::read(y[i]));
    }
  }
}

void scaled_sum_f32(const float* x, float* y, float a, float b, std::int64_t n) {
  const VecF32 v_a = hn::Set(F32(), a), v_b = hn::Set(F32(), b);
  if (b == 0) {
    for_each_vector(n, [=](auto at) HWY_ATTR { at.store(hn::Mul(v_a, at.load(x)), y); });
  } else {
    for_each_vector(n, [=](auto at) HWY_ATTR {
      at.store(hn::MulAdd(v_a, at.load(x), hn::Mul(v_b, at.load(y))), y);
    });
  }
}

// y = a x + b y for n elements next to each other.
void axpby_elements(DType x_type, DType y_type, const void* x, void* y, float a, float b,
                    std::int64_t n) {
  constexpr DType f32 = DType::kF32, bf16 = DType::kBF16;
  if (x_type == f32 && y_type == f32) {
    return scaled_sum_f32(static_cast<const float*>(x), static_cast<float*>(y), a, b, n);
  }
  if (x_type == bf16 && y_type == bf16) return scaled_sum<bf16, bf16>(x, y, a, b, n);
  if (x_type == bf16) return scaled_sum<bf16, f32>(x, y, a, b, n);
  return scaled_sum<f32, bf16>(x, y, a, b, n);
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {
namespace {

HWY_EXPORT(cast_elements);
HWY_EXPORT(axpby_elements);

void require(const char* op, const Tensor& tensor, std::initializer_list<DType> accepted) {
  for (const DType dtype : accepted) {
    if (tensor.dtype() == dtype) return;
  }
  throw_error(ExitCode::kInternal, "[{}] the cpu backend does not take {}", op, tensor.dtype());
}

template <typename T>
void fill_with(const Fill& args, const Stream& stream, T value) {
  T* y = static_cast<T*>(args.y.raw());
  parallel_for(
      stream, args.y.num_elements(), kElementGrain,
      [=](std::int64_t begin, std::int64_t end, int) { std::fill(y + begin, y + end, value); });
}

// The element `offset` of the tensor.
void* at(const Tensor& tensor, std::int64_t offset) {
  return static_cast<char*>(tensor.raw()) + offset * size_of(tensor.dtype());
}

}  // namespace

void fill(const Fill& args, const Stream& stream) {
  require("fill", args.y, {DType::kF32, DType::kBF16, DType::kF64});
  switch (args.y.dtype()) {
    case DType::kF64:
      return fill_with(args, stream, static_cast<double>(args.value));
    case DType::kBF16:
      return fill_with(args, stream, bf16_from_f32(args.value));
    default:
      return fill_with(args, stream, args.value);
  }
}

void axpby(const Axpby& args, const Stream& stream) {
  require("axpby", args.x, {DType::kF32, DType::kBF16});
  require("axpby", args.y, {DType::kF32, DType::kBF16});
  const bool one_row = args.x.is_contiguous() && args.y.is_contiguous();
  const Tensor x = one_row ? args.x.reshape({1, -1}) : args.x;
  const Tensor y = one_row ? args.y.reshape({1, -1}) : args.y;
  const std::int64_t C = x.dim(1);
  parallel_for(stream, x.num_elements(), kElementGrain,
               [&](std::int64_t begin, std::int64_t end, int) {
                 for (std::int64_t e = begin; e < end;) {
                   const std::int64_t row = e / C, stop = std::min(end, (row + 1) * C);
                   HWY_DYNAMIC_DISPATCH(axpby_elements)
                   (x.dtype(), y.dtype(), at(x, row * x.stride(0) + e % C),
                    at(y, row * y.stride(0) + e % C), args.a, args.b, stop - e);
                   e = stop;
                 }
               });
}

void cast(const Cast& args, const Stream& stream) {
  for (const Tensor* tensor : {&args.x, &args.y}) {
    require("cast", *tensor, {DType::kF32, DType::kBF16, DType::kF16, DType::kF64});
  }
  parallel_for(stream, args.x.num_elements(), kElementGrain,
               [&](std::int64_t begin, std::int64_t end, int) {
                 HWY_DYNAMIC_DISPATCH(cast_elements)
                 (args.x.dtype(), args.y.dtype(), args.x.raw(), args.y.raw(), begin, end);
               });
}

}  // namespace dsv::kernels::cpu
#endif
