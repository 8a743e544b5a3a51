#include <type_traits>

#include "cuda/activations.cuh"
#include "cuda/map.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

template <typename T, Activation kKind>
__device__ float value(float x) {
  if constexpr (kKind == Activation::kGeluTanh) return gelu_tanh<T>(x);
  if constexpr (kKind == Activation::kGeluErf) return gelu_erf<T>(x);
  if constexpr (kKind == Activation::kSilu) return silu<T>(x);
  return x;
}

template <typename T, Activation kKind>
__device__ float slope(float x) {
  if constexpr (kKind == Activation::kGeluTanh) return gelu_tanh_slope<T>(x);
  if constexpr (kKind == Activation::kGeluErf) return gelu_erf_slope<T>(x, normal<T>(x));
  if constexpr (kKind == Activation::kSilu) return silu_slope<T>(x);
  return 1.0f;
}

template <typename T, Activation kKind>
struct ForwardOp {
  static constexpr int kPack = 16 / sizeof(T), kUnroll = 4;
  const T* x;
  T* y;

  template <int N>
  __device__ Pack<T, N> load(std::int64_t, std::int64_t at) const {
    return read<N>(x + at);
  }
  template <int N>
  __device__ void finish(std::int64_t, std::int64_t at, const Pack<T, N>& in) const {
    float out[N];
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = value<T, kKind>(to_f32(in.at[i]));
    store_pack(y + at, out);
  }
};

template <typename T, Activation kKind>
struct BackwardOp {
  static constexpr int kPack = 16 / sizeof(T), kUnroll = 2;
  const T *x, *dy;
  T* dx;

  template <int N>
  struct Input {
    Pack<T, N> x, dy;
  };
  template <int N>
  __device__ Input<N> load(std::int64_t, std::int64_t at) const {
    return {read<N>(x + at), read<N>(dy + at)};
  }
  template <int N>
  __device__ void finish(std::int64_t, std::int64_t at, const Input<N>& in) const {
    float out[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      out[i] = to_f32(in.dy.at[i]) * slope<T, kKind>(to_f32(in.x.at[i]));
    }
    store_pack(dx + at, out);
  }
};

// fn(T{}, the kind as a constant).
template <typename Fn>
void with_type_and_kind(DType dtype, Activation kind, const Fn& fn) {
  with_dtype("activation", dtype, [&](auto type) {
    switch (kind) {
      case Activation::kNone:
        return fn(type, std::integral_constant<Activation, Activation::kNone>{});
      case Activation::kGeluTanh:
        return fn(type, std::integral_constant<Activation, Activation::kGeluTanh>{});
      case Activation::kGeluErf:
        return fn(type, std::integral_constant<Activation, Activation::kGeluErf>{});
      case Activation::kSilu:
        return fn(type, std::integral_constant<Activation, Activation::kSilu>{});
    }
  });
}

}  // namespace

void activation_forward(const ActivationForward& args, const Stream& stream) {
  require_one_dtype("activation", {&args.x, &args.y});
  with_type_and_kind(args.x.dtype(), args.kind, [&](auto type, auto kind) {
    using T = decltype(type);
    const ForwardOp<T, kind()> op{data<T>(args.x), data<T>(args.y)};
    map_flat(stream, op, args.x.num_elements(),
             is_packable(op.x, 0, op.kPack) && is_packable(op.y, 0, op.kPack));
  });
}

void activation_backward(const ActivationBackward& args, const Stream& stream) {
  require_one_dtype("activation", {&args.x, &args.dy, &args.dx});
  with_type_and_kind(args.x.dtype(), args.kind, [&](auto type, auto kind) {
    using T = decltype(type);
    const BackwardOp<T, kind()> op{data<T>(args.x), data<T>(args.dy), data<T>(args.dx)};
    map_flat(stream, op, args.x.num_elements(),
             is_packable(op.x, 0, op.kPack) && is_packable(op.dy, 0, op.kPack) &&
                 is_packable(op.dx, 0, op.kPack));
  });
}

}  // namespace dsv::kernels::cuda
