#include "cuda/activations.cuh"
#include "cuda/map.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

template <typename T>
struct ForwardOp {
  static constexpr int kPack = 16 / sizeof(T), kUnroll = 2;
  const T* x;
  T* y;
  std::int64_t F;

  template <int N>
  struct Input {
    Pack<T, N> h, g;
  };
  template <int N>
  __device__ Input<N> load(std::int64_t row, std::int64_t column) const {
    const T* h = x + row * 2 * F + column;
    return {read<N>(h), read<N>(h + F)};
  }
  template <int N>
  __device__ void finish(std::int64_t row, std::int64_t column, const Input<N>& in) const {
    float out[N];
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = to_f32(in.h.at[i]) * gelu_erf<T>(to_f32(in.g.at[i]));
    store_pack(y + row * F + column, out);
  }
};

template <typename T>
struct BackwardOp {
  static constexpr int kPack = 16 / sizeof(T), kUnroll = 2;
  const T *x, *dy;
  T* dx;
  std::int64_t F;

  template <int N>
  struct Input {
    Pack<T, N> h, g, dy;
  };
  template <int N>
  __device__ Input<N> load(std::int64_t row, std::int64_t column) const {
    const T* h = x + row * 2 * F + column;
    return {read<N>(h), read<N>(h + F), read<N>(dy + row * F + column)};
  }
  template <int N>
  __device__ void finish(std::int64_t row, std::int64_t column, const Input<N>& in) const {
    float dh[N], dg[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float h = to_f32(in.h.at[i]), g = to_f32(in.g.at[i]), d = to_f32(in.dy.at[i]);
      const Normal at_g = normal<T>(g);
      dh[i] = d * (g * at_g.cdf);
      dg[i] = d * h * gelu_erf_slope<T>(g, at_g);
    }
    T* to = dx + row * 2 * F + column;
    store_pack(to, dh);
    store_pack(to + F, dg);
  }
};

}  // namespace

void geglu_forward(const GegluForward& args, const Stream& stream) {
  require_one_dtype("geglu", {&args.x, &args.y});
  const std::int64_t rows = args.y.dim(0), F = args.y.dim(1);
  with_dtype("geglu", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    const ForwardOp<T> op{data<T>(args.x), data<T>(args.y), F};
    map_rows(stream, op, rows, F, is_packable(op.x, F, op.kPack) && is_packable(op.y, F, op.kPack));
  });
}

void geglu_backward(const GegluBackward& args, const Stream& stream) {
  require_one_dtype("geglu", {&args.x, &args.dy, &args.dx});
  const std::int64_t rows = args.dy.dim(0), F = args.dy.dim(1);
  with_dtype("geglu", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    const BackwardOp<T> op{data<T>(args.x), data<T>(args.dy), data<T>(args.dx), F};
    map_rows(stream, op, rows, F,
             is_packable(op.x, F, op.kPack) && is_packable(op.dy, F, op.kPack) &&
                 is_packable(op.dx, F, op.kPack));
  });
}

}  // namespace dsv::kernels::cuda
