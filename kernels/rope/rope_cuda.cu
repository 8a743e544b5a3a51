// A thread has one run of pairs of one token: it reads their cosines and sines once and turns these
// pairs in all heads, several heads at a time.
#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/raw_pack.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kHeads = 4;  // in flight

template <typename T>
struct Layout {
  T* data;
  std::int64_t sample, token, head;  // strides

  explicit Layout(const Tensor& t)
      : data(cuda::data<T>(t)), sample(t.stride(0)), token(t.stride(1)), head(t.stride(2)) {}
  bool is_packable(int pack) const {
    return cuda::is_packable(data, sample, pack) && token % pack == 0 && head % pack == 0;
  }
};

template <typename T>
struct Rotation {
  Layout<T> x, y;  // y may be x
  const float *cos, *sin;
  std::int64_t num_tokens, S;  // num_tokens: of all samples
  int H, pairs;                // pairs of a head: D / 2
  float sign;
};

// kPack elements, kPack / 2 pairs; 2: a pair at any address, element by element.
template <typename T, int kPack>
__device__ void load_pairs(const T* from, float (&out)[kPack]) {
  if constexpr (kPack == 2) {
    out[0] = to_f32(from[0]), out[1] = to_f32(from[1]);
  } else {
    load_pack<kPack>(from, out);
  }
}
template <typename T, int kPack>
__device__ void store_pairs(T* to, const float (&in)[kPack]) {
  if constexpr (kPack == 2) {
    to[0] = from_f32<T>(in[0]), to[1] = from_f32<T>(in[1]);
  } else {
    store_pack<kPack>(to, in);
  }
}

template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads) rotate(const Rotation<T> p) {
  constexpr int kPairs = kPack / 2;
  const int packs = p.pairs / kPairs;
  const std::int64_t item = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t token = item / packs;
  if (token >= p.num_tokens) return;
  const int pair = static_cast<int>(item - token * packs) * kPairs;
  const std::int64_t b = token / p.S, s = token - b * p.S;

  float cos[kPairs], sin[kPairs];
  load_parameter_pack<kPairs>(p.cos + s * p.pairs + pair, cos);
  load_parameter_pack<kPairs>(p.sin + s * p.pairs + pair, sin);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) sin[i] *= p.sign;

  const T* x = p.x.data + b * p.x.sample + s * p.x.token + 2 * pair;
  T* y = p.y.data + b * p.y.sample + s * p.y.token + 2 * pair;
  // Heads [h, h + n): all of them are read before the first is written, so that they are in flight
  // together although y may be x.
  const auto turn = [&](int h, auto n) {
    float values[n][kPack];
#pragma unroll
    for (int j = 0; j < n; ++j) load_pairs<T, kPack>(x + (h + j) * p.x.head, values[j]);
#pragma unroll
    for (int j = 0; j < n; ++j) {
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const float even = values[j][2 * i], odd = values[j][2 * i + 1];
        values[j][2 * i] = fmaf(even, cos[i], -(odd * sin[i]));
        values[j][2 * i + 1] = fmaf(even, sin[i], odd * cos[i]);
      }
      store_pairs<T, kPack>(y + (h + j) * p.y.head, values[j]);
    }
  };
  int h = 0;
  for (; h + kHeads <= p.H; h += kHeads) turn(h, std::integral_constant<int, kHeads>{});
  for (; h < p.H; ++h) turn(h, std::integral_constant<int, 1>{});
}

}  // namespace

void rope(const Rope& args, const Stream& stream) {
  require_f32("rope", {&args.cos, &args.sin});
  DSV_CHECK(args.y.dtype() == args.x.dtype(), "[rope] x is {}, y is {}", args.x.dtype(),
            args.y.dtype());
  const std::int64_t B = args.x.dim(0), S = args.x.dim(1), H = args.x.dim(2), D = args.x.dim(3);
  if (B * S * H * (D / 2) == 0) return;
  with_dtype("rope", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    constexpr int kPack = kPackOf<T>;
    const Rotation<T> p{.x = Layout<T>(args.x),
                        .y = Layout<T>(args.y),
                        .cos = args.cos.f32(),
                        .sin = args.sin.f32(),
                        .num_tokens = B * S,
                        .S = S,
                        .H = narrow<int>(H),
                        .pairs = narrow<int>(D / 2),
                        .sign = args.inverse ? -1.0f : 1.0f};
    const auto launch = [&](auto kernel, int pack) {
      const int grid = narrow<int>(ceil_div(B * S * (D / pack), kThreads));
      kernel<<<grid, kThreads, 0, native(stream)>>>(p);
      DSV_CUDA_LAUNCHED();
    };
    if (D % kPack == 0 && p.x.is_packable(kPack) && p.y.is_packable(kPack)) {
      launch(rotate<T, kPack>, kPack);
    } else {
      launch(rotate<T, 2>, 2);
    }
  });
}

}  // namespace dsv::kernels::cuda
