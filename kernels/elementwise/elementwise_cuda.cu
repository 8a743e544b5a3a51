#include <cuda_fp16.h>

#include <type_traits>

#include "cuda/map.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

// --- fill ----------------------------------------------------------------------------------------

struct Nothing {};

template <typename T>
struct FillOp {
  static constexpr int kPack = 16 / sizeof(T), kUnroll = 4;
  T* y;
  T value;

  template <int N>
  __device__ Nothing load(std::int64_t, std::int64_t) const {
    return {};
  }
  template <int N>
  __device__ void finish(std::int64_t, std::int64_t at, Nothing) const {
    Pack<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.at[i] = value;
    write(y + at, out);
  }
};

template <typename T>
void fill_with(const Fill& args, const Stream& stream, T value) {
  const FillOp<T> op{data<T>(args.y), value};
  map_flat(stream, op, args.y.num_elements(), is_packable(op.y, 0, op.kPack));
}

// --- axpby ---------------------------------------------------------------------------------------

template <typename X, typename Y, bool kReadY>
struct AxpbyOp {
  static constexpr int kPack = 16 / std::max(sizeof(X), sizeof(Y)), kUnroll = 4;
  const X* x;
  Y* y;
  std::int64_t x_stride, y_stride;
  float a, b;

  template <int N>
  struct Input {
    Pack<X, N> x;
    Pack<Y, N> y;
  };
  template <int N>
  __device__ Input<N> load(std::int64_t row, std::int64_t column) const {
    Input<N> in;
    in.x = read<N>(x + row * x_stride + column);
    if constexpr (kReadY) in.y = read<N>(y + row * y_stride + column);
    return in;
  }
  template <int N>
  __device__ void finish(std::int64_t row, std::int64_t column, const Input<N>& in) const {
    float out[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float v = to_f32(in.x.at[i]);
      if constexpr (kReadY) {
        out[i] = fmaf(a, v, __fmul_rn(b, to_f32(in.y.at[i])));
      } else {
        out[i] = a * v;
      }
    }
    store_pack(y + row * y_stride + column, out);
  }
};

// --- cast ----------------------------------------------------------------------------------------

__device__ float widened(float x) { return x; }
__device__ float widened(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ float widened(__half x) { return __half2float(x); }

// A float that rounds on to bf16 or f16 as the double itself would: cut off, with the last bit set
// when anything was lost (round to odd).
__device__ float round_to_odd(double x) {
  const float cut = __double2float_rz(x);
  const bool exact = static_cast<double>(cut) == x;
  return exact || isnan(x) ? cut : __int_as_float(__float_as_int(cut) | 1);
}

template <typename To, typename From>
__device__ To converted(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (std::is_same_v<To, float> && std::is_same_v<From, double>) {
    return __double2float_rn(x);
  } else if constexpr (std::is_same_v<From, double>) {
    return converted<To>(round_to_odd(x));
  } else if constexpr (std::is_same_v<To, __nv_bfloat16>) {
    return __float2bfloat16_rn(widened(x));
  } else if constexpr (std::is_same_v<To, __half>) {
    return __float2half_rn(widened(x));
  } else {
    return static_cast<To>(widened(x));
  }
}

template <typename From, typename To>
struct CastOp {
  static constexpr int kPack = 16 / std::max(sizeof(From), sizeof(To)), kUnroll = 4;
  const From* x;
  To* y;

  template <int N>
  __device__ Pack<From, N> load(std::int64_t, std::int64_t at) const {
    return read<N>(x + at);
  }
  template <int N>
  __device__ void finish(std::int64_t, std::int64_t at, const Pack<From, N>& in) const {
    Pack<To, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.at[i] = converted<To>(in.at[i]);
    write(y + at, out);
  }
};

template <typename Fn>
void with_float_type(DType dtype, const Fn& fn) {
  switch (dtype) {
    case DType::kF32: return fn(float{});
    case DType::kBF16: return fn(__nv_bfloat16{});
    case DType::kF16: return fn(__half{});
    case DType::kF64: return fn(double{});
    default: throw_error(ExitCode::kInternal, "[cast] the cuda backend does not take {}", dtype);
  }
}

}  // namespace

void fill(const Fill& args, const Stream& stream) {
  switch (args.y.dtype()) {
    case DType::kF32: return fill_with(args, stream, args.value);
    case DType::kF64: return fill_with(args, stream, static_cast<double>(args.value));
    case DType::kBF16: return fill_with(args, stream, bf16_from_f32(args.value));
    default: refuse_dtype("fill", args.y.dtype());
  }
}

void axpby(const Axpby& args, const Stream& stream) {
  require_f32_or_bf16("axpby", {&args.x, &args.y});
  const bool one_row = args.x.is_contiguous() && args.y.is_contiguous();
  const std::int64_t rows = one_row ? 1 : args.x.dim(0);
  const std::int64_t columns = one_row ? args.x.num_elements() : args.x.dim(1);
  const std::int64_t x_stride = one_row ? 0 : args.x.stride(0);
  const std::int64_t y_stride = one_row ? 0 : args.y.stride(0);
  with_dtypes("axpby", args.x.dtype(), args.y.dtype(), [&](auto x_type, auto y_type) {
    using X = decltype(x_type);
    using Y = decltype(y_type);
    const auto run = [&](const auto& op) {
      map_rows(stream, op, rows, columns,
               is_packable(op.x, x_stride, op.kPack) && is_packable(op.y, y_stride, op.kPack));
    };
    const X* x = data<X>(args.x);
    Y* y = data<Y>(args.y);
    if (args.b == 0) {
      run(AxpbyOp<X, Y, false>{x, y, x_stride, y_stride, args.a, args.b});
    } else {
      run(AxpbyOp<X, Y, true>{x, y, x_stride, y_stride, args.a, args.b});
    }
  });
}

void cast(const Cast& args, const Stream& stream) {
  with_float_type(args.x.dtype(), [&](auto from) {
    with_float_type(args.y.dtype(), [&](auto to) {
      const CastOp<decltype(from), decltype(to)> op{data<decltype(from)>(args.x),
                                                    data<decltype(to)>(args.y)};
      map_flat(stream, op, args.x.num_elements(),
               is_packable(op.x, 0, op.kPack) && is_packable(op.y, 0, op.kPack));
    });
  });
}

}  // namespace dsv::kernels::cuda
