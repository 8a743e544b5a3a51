// One pass over all arrays. A launch takes up to 64 segments with it as a parameter; its blocks
// find theirs by bisection. Tiles begin at multiples of a pack, wherever their segment does, so
// that every access but those at a segment's ends is one of 16 bytes.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/raw_pack.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kThreads = 256, kUnroll = 2, kMaxSegments = 64;

// The constants of a step, computed in double and each rounded once to f32.
struct Step {
  float grad_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, root_scale, eps,
      ema_decay, one_minus_ema_decay;
};

Step step_of(const AdamW& args) {
  const double correction1 = 1 - std::pow(args.beta1, static_cast<double>(args.step));
  const double correction2 = 1 - std::pow(args.beta2, static_cast<double>(args.step));
  const auto f32 = [](double value) { return static_cast<float>(value); };
  return {.grad_scale = f32(args.grad_scale),
          .beta1 = f32(args.beta1),
          .one_minus_beta1 = f32(1 - args.beta1),
          .beta2 = f32(args.beta2),
          .one_minus_beta2 = f32(1 - args.beta2),
          .step_size = f32(args.lr / correction1),
          .root_scale = f32(1 / std::sqrt(correction2)),
          .eps = f32(args.eps),
          .ema_decay = f32(args.ema_decay),
          .one_minus_ema_decay = f32(1 - args.ema_decay)};
}

struct Segment {
  std::int64_t begin, end;
  std::int64_t first_tile;  // among those of the launch
  float shrink;             // 1 - lr * weight_decay
};
struct Segments {
  int count;
  Segment at[kMaxSegments];
};

struct None {};  // Copy of those who want none

template <bool kEma, typename Copy>
struct Arrays {
  float *param, *m, *v, *ema;
  const float* grad;
  Copy* copy;

  template <int N>
  struct Elements {
    float param[N], grad[N], m[N], v[N], ema[N];
  };
  template <int N>
  __device__ void read(std::int64_t i, Elements<N>& e) const {
    load_pack(param + i, e.param);
    load_pack(grad + i, e.grad);
    load_pack(m + i, e.m);
    load_pack(v + i, e.v);
    if constexpr (kEma) load_pack(ema + i, e.ema);
  }
  // Every multiplication and addition says how it rounds: the numbers must not depend on N.
  template <int N>
  __device__ void update(const Step& step, float shrink, std::int64_t i, Elements<N>& e) const {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float g = __fmul_rn(e.grad[j], step.grad_scale);
      e.m[j] = __fmaf_rn(step.beta1, e.m[j], __fmul_rn(step.one_minus_beta1, g));
      e.v[j] = __fmaf_rn(step.beta2, e.v[j], __fmul_rn(__fmul_rn(step.one_minus_beta2, g), g));
      const float root = __fmaf_rn(__fsqrt_rn(e.v[j]), step.root_scale, step.eps);
      const float move = __fdiv_rn(__fmul_rn(step.step_size, e.m[j]), root);
      e.param[j] = __fmaf_rn(e.param[j], shrink, -move);
      if constexpr (kEma) {
        e.ema[j] =
            __fmaf_rn(step.ema_decay, e.ema[j], __fmul_rn(step.one_minus_ema_decay, e.param[j]));
      }
    }
    store_pack(param + i, e.param);
    store_pack(m + i, e.m);
    store_pack(v + i, e.v);
    if constexpr (kEma) store_pack(ema + i, e.ema);
    if constexpr (!std::is_same_v<Copy, None>) store_pack(copy + i, e.param);
  }
};

template <int N, bool kEma, typename Copy>
__global__ void __launch_bounds__(kThreads, 3)
    adamw_kernel(const __grid_constant__ Arrays<kEma, Copy> arrays,
                 const __grid_constant__ Step step, const __grid_constant__ Segments segments) {
  const std::int64_t tile = blockIdx.x;
  int s = 0;
  for (int beyond = segments.count; beyond - s > 1;) {
    const int middle = (s + beyond) / 2;
    (segments.at[middle].first_tile <= tile ? s : beyond) = middle;
  }
  const std::int64_t begin = segments.at[s].begin, end = segments.at[s].end;
  const float shrink = segments.at[s].shrink;
  const std::int64_t tile_begin =
      begin / N * N + (tile - segments.at[s].first_tile) * (kThreads * kUnroll * N);
  const std::int64_t first = tile_begin + std::int64_t{threadIdx.x} * N;
  if (tile_begin >= begin && tile_begin + kThreads * kUnroll * N <= end) {
    typename Arrays<kEma, Copy>::template Elements<N> e[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) arrays.read(first + u * (kThreads * N), e[u]);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      arrays.update(step, shrink, first + u * (kThreads * N), e[u]);
    }
    return;
  }
#pragma unroll 1
  for (int u = 0; u < kUnroll; ++u) {
    const std::int64_t i = first + u * (kThreads * N);
    if (i >= begin && i + N <= end) {
      typename Arrays<kEma, Copy>::template Elements<N> e;
      arrays.read(i, e);
      arrays.update(step, shrink, i, e);
      continue;
    }
#pragma unroll 1
    for (std::int64_t j = max(i, begin); j < min(i + N, end); ++j) {
      typename Arrays<kEma, Copy>::template Elements<1> e;
      arrays.read(j, e);
      arrays.update(step, shrink, j, e);
    }
  }
}

template <int N, bool kEma, typename Copy>
void launch_all(const AdamW& args, const Arrays<kEma, Copy>& arrays, const Stream& stream) {
  constexpr std::int64_t kTile = kThreads * kUnroll * N;
  const Step step = step_of(args);
  Segments segments{};
  std::int64_t num_tiles = 0;
  const auto launch = [&] {
    if (segments.count == 0) return;
    adamw_kernel<N, kEma, Copy>
        <<<static_cast<unsigned>(num_tiles), kThreads, 0, native(stream)>>>(arrays, step, segments);
    DSV_CUDA_LAUNCHED();
    segments.count = 0;
    num_tiles = 0;
  };
  for (const AdamWSegment& s : args.segments) {
    if (s.begin >= s.end) continue;
    segments.at[segments.count++] = {
        .begin = s.begin,
        .end = s.end,
        .first_tile = num_tiles,
        .shrink = static_cast<float>(1 - args.lr * static_cast<double>(s.weight_decay))};
    num_tiles += (s.end - s.begin / N * N + kTile - 1) / kTile;
    if (segments.count == kMaxSegments) launch();
  }
  launch();
}

template <bool kEma, typename Copy>
void launch_packed(const AdamW& args, const Stream& stream) {
  const Arrays<kEma, Copy> arrays{.param = args.param.f32(),
                                  .m = args.m.f32(),
                                  .v = args.v.f32(),
                                  .ema = args.ema.f32(),
                                  .grad = args.grad.f32(),
                                  .copy = data<Copy>(args.copy)};
  const auto packable = [](const auto*... array) { return (is_packable(array, 0, 4) && ...); };
  if (packable(arrays.param, arrays.grad, arrays.m, arrays.v, arrays.ema, arrays.copy)) {
    launch_all<4>(args, arrays, stream);
  } else {
    launch_all<1>(args, arrays, stream);
  }
}

template <bool kEma>
void launch_with_copy(const AdamW& args, const Stream& stream) {
  if (!args.copy) return launch_packed<kEma, None>(args, stream);
  with_dtype("adamw", args.copy.dtype(),
             [&](auto copy) { launch_packed<kEma, decltype(copy)>(args, stream); });
}

}  // namespace

void adamw(const AdamW& args, const Stream& stream) {
  require_session(stream);
  require_f32("adamw", {&args.param, &args.grad, &args.m, &args.v, &args.ema});
  args.ema ? launch_with_copy<true>(args, stream) : launch_with_copy<false>(args, stream);
}

}  // namespace dsv::kernels::cuda
