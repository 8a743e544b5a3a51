#include "cuda/f64_sums.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kPack = 4;
constexpr int kRun = 4;  // packs of a thread in flight, of each tensor

struct Rows {
  const float* data;
  std::int64_t stride;

  explicit Rows(const Tensor& t) : data(t.f32()), stride(t.stride(0)) {}
  bool is_packable() const { return cuda::is_packable(data, stride, kPack); }
};

// Blocks take the chunks of the samples in order.
struct Chunks {
  std::int64_t N, size, per_sample;

  explicit Chunks(std::int64_t n) : N(n), size(chunk_of(n)), per_sample(ceil_div(n, size)) {}
};

// partials[b, chunk] = sum (pred - target)^2 over the chunk.
template <bool kAligned>
__global__ void __launch_bounds__(kChunkThreads)
    squared_errors(Rows all_pred, Rows all_target, Chunks chunks, double* partials) {
  const std::int64_t b = blockIdx.x / chunks.per_sample;
  const std::int64_t begin = (blockIdx.x - b * chunks.per_sample) * chunks.size;
  const float *pred = all_pred.data + b * all_pred.stride,
              *target = all_target.data + b * all_target.stride;
  LanesSum sum;
  const auto add = [&](float p, float t, int lane) {
    sum.add_square(static_cast<double>(p) - static_cast<double>(t), lane);
  };
  for_own_packs<kPack, kRun>(
      begin, min(begin + chunks.size, chunks.N),
      [&](std::int64_t i, auto num_packs) {
        float p[num_packs][kPack], t[num_packs][kPack];
        load_packs<kAligned>(pred + i, p);
        load_packs<kAligned>(target + i, t);
#pragma unroll
        for (int r = 0; r < num_packs; ++r) {
#pragma unroll
          for (int e = 0; e < kPack; ++e) add(p[r][e], t[r][e], e);
        }
      },
      [&](std::int64_t i, int lane) { add(pred[i], target[i], lane); });
  __shared__ double shared[kChunkThreads / kWarp];
  const double total = block_sum<kChunkThreads>(sum.total(), shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

// A block per sample.
__global__ void __launch_bounds__(kLastThreads)
    mean_loss(const double* partials, Chunks chunks, const float* weight, float* loss) {
  const std::int64_t b = blockIdx.x;
  const double sum = last_sum(partials + b * chunks.per_sample, chunks.per_sample, 1);
  if (threadIdx.x != 0) return;
  const double w = weight == nullptr ? 1.0 : static_cast<double>(weight[b]);
  loss[b] = static_cast<float>(w * sum / static_cast<double>(chunks.N));
}

template <bool kAligned>
__global__ void __launch_bounds__(kChunkThreads)
    scaled_errors(Rows all_pred, Rows all_target, const float* weight, double grad_scale,
                  float* all_dpred, std::int64_t dpred_stride, Chunks chunks) {
  const std::int64_t b = blockIdx.x / chunks.per_sample;
  const std::int64_t begin = (blockIdx.x - b * chunks.per_sample) * chunks.size;
  const float *pred = all_pred.data + b * all_pred.stride,
              *target = all_target.data + b * all_target.stride;
  float* dpred = all_dpred + b * dpred_stride;
  const double w = weight == nullptr ? 1.0 : static_cast<double>(weight[b]);
  const auto factor = static_cast<float>(grad_scale * w * 2 / static_cast<double>(chunks.N));
  for_own_packs<kPack, kRun>(
      begin, min(begin + chunks.size, chunks.N),
      [&](std::int64_t i, auto num_packs) {
        float p[num_packs][kPack], t[num_packs][kPack];
        load_packs<kAligned>(pred + i, p);
        load_packs<kAligned>(target + i, t);
#pragma unroll
        for (int r = 0; r < num_packs; ++r) {
          float* to = dpred + i + r * kPackStride<kPack>;
#pragma unroll
          for (int e = 0; e < kPack; ++e) p[r][e] = factor * (p[r][e] - t[r][e]);
          if constexpr (kAligned) {
            store_pack<kPack>(to, p[r]);
          } else {
#pragma unroll
            for (int e = 0; e < kPack; ++e) to[e] = p[r][e];
          }
        }
      },
      [&](std::int64_t i, int) { dpred[i] = factor * (pred[i] - target[i]); });
}

}  // namespace

void mse_loss_forward(const MseLossForward& args, const Stream& stream) {
  require_f32("mse_loss", {&args.pred, &args.target, &args.weight, &args.loss});
  const std::int64_t B = args.pred.dim(0);
  if (B == 0) return;
  const Rows pred(args.pred), target(args.target);
  const Chunks chunks(args.pred.dim(1));
  double* const partials = scratch<double>(stream, B * chunks.per_sample);
  if (chunks.N > 0) {
    const auto kernel =
        pred.is_packable() && target.is_packable() ? squared_errors<true> : squared_errors<false>;
    kernel<<<narrow<int>(B * chunks.per_sample), kChunkThreads, 0, native(stream)>>>(
        pred, target, chunks, partials);
    DSV_CUDA_LAUNCHED();
  }
  mean_loss<<<narrow<int>(B), kLastThreads, 0, native(stream)>>>(
      partials, chunks, args.weight.f32(), args.loss.f32());
  DSV_CUDA_LAUNCHED();
}

void mse_loss_backward(const MseLossBackward& args, const Stream& stream) {
  require_f32("mse_loss", {&args.pred, &args.target, &args.weight, &args.dpred});
  const std::int64_t B = args.pred.dim(0);
  const Rows pred(args.pred), target(args.target), dpred(args.dpred);
  const Chunks chunks(args.pred.dim(1));
  if (B * chunks.N == 0) return;
  const auto kernel = pred.is_packable() && target.is_packable() && dpred.is_packable()
                          ? scaled_errors<true>
                          : scaled_errors<false>;
  kernel<<<narrow<int>(B * chunks.per_sample), kChunkThreads, 0, native(stream)>>>(
      pred, target, args.weight.f32(), static_cast<double>(args.grad_scale), args.dpred.f32(),
      dpred.stride, chunks);
  DSV_CUDA_LAUNCHED();
}

}  // namespace dsv::kernels::cuda
