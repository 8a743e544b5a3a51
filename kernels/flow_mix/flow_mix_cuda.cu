#include "cuda/map.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

struct FlowMixOp {
  static constexpr int kPack = 4, kUnroll = 2;
  const float *x0, *noise, *sigma;
  float *x_t, *target;
  std::int64_t N;
  float target_sign;

  template <int kN>
  struct Input {
    Pack<float, kN> x0, noise;
    float sigma;
  };
  template <int kN>
  __device__ Input<kN> load(std::int64_t b, std::int64_t n) const {
    return {read<kN>(x0 + b * N + n), read<kN>(noise + b * N + n), sigma[b]};
  }
  template <int kN>
  __device__ void finish(std::int64_t b, std::int64_t n, const Input<kN>& in) const {
    float mixed[kN], difference[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const float clean = in.x0.at[i], e = in.noise.at[i];
      mixed[i] = fmaf(1.0f - in.sigma, clean, __fmul_rn(in.sigma, e));
      difference[i] = target_sign * (e - clean);
    }
    store_pack(x_t + b * N + n, mixed);
    store_pack(target + b * N + n, difference);
  }
};

}  // namespace

void flow_mix(const FlowMix& args, const Stream& stream) {
  require_f32("flow_mix", {&args.x0, &args.noise, &args.sigma, &args.x_t, &args.target});
  const std::int64_t B = args.x0.dim(0), N = args.x0.dim(1);
  const FlowMixOp op{.x0 = args.x0.f32(),
                     .noise = args.noise.f32(),
                     .sigma = args.sigma.f32(),
                     .x_t = args.x_t.f32(),
                     .target = args.target.f32(),
                     .N = N,
                     .target_sign = args.target_sign};
  const auto packable = [=](const auto*... array) {
    return (is_packable(array, N, FlowMixOp::kPack) && ...);
  };
  map_rows(stream, op, B, N, packable(op.x0, op.noise, op.x_t, op.target));
}

}  // namespace dsv::kernels::cuda
