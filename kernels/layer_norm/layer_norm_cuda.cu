// Forward. A block has a chunk of one sample's rows and reads them once: a row stays in registers
// between its sums and its output, while the next row is on its way. Affine and modulation are one
// gain and one offset per sample and channel, which stay in registers too: y = xhat * gain + offset
// with gain = weight (1 + scale), offset = bias (1 + scale) + shift. Rows that do not fit in
// registers, or not in packs, take the _wide kernel, which reads a row again for each pass.
#include "cuda/row_chunks.cuh"
#include "cuda/row_registers.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kWideThreads = 256;

template <typename X, typename Y>
struct ForwardRows {
  const X* x;
  Y* y;
  const float *weight, *bias;
  SampleTable scale, shift;
  float *mean, *rstd;
  int C;
  float eps;
  RowChunks chunks;
};

// Of the values x - guess, with mean `rest` and mean square `square`.
__device__ float rstd_of(float rest, float square, float eps) {
  const float variance = square - rest * rest;
  return 1.0f / sqrtf((variance < 0 ? 0.0f : variance) + eps);  // a NaN stays one
}

// 96 registers leave room for two blocks on a multiprocessor at C = 5120, for seven at C = 1536.
template <typename X, typename Y>
__global__ void __maxnreg__(96) forward_rows(const ForwardRows<X, Y> p) {
  constexpr int kPack = kPackOf<X, Y>;
  __shared__ BlockSums<1>::Shared shared_sum;
  __shared__ BlockSums<2>::Shared shared_moments;
  const auto rows = p.chunks[blockIdx.x];
  RowRegisters<X, kPack> next{};
  next.load(p.x + rows.begin * p.C, p.C);

  float gain[kRowElements], offset[kRowElements];
  {
    float scale[kRowElements], bias[kRowElements];
    load_parameters<kPack>(p.scale.row(rows.sample), p.C, 0.0f, scale);
    load_parameters<kPack>(p.weight, p.C, 1.0f, gain);
    load_parameters<kPack>(p.shift.row(rows.sample), p.C, 0.0f, offset);
#pragma unroll
    for (int e = 0; e < kRowElements; ++e) gain[e] *= 1.0f + scale[e];
    if (p.bias != nullptr) {
      load_parameters<kPack>(p.bias, p.C, 0.0f, bias);
#pragma unroll
      for (int e = 0; e < kRowElements; ++e) offset[e] = fmaf(bias[e], 1.0f + scale[e], offset[e]);
    }
  }

  const float inverse_C = 1.0f / static_cast<float>(p.C);
  BlockSums<1> sum_over_row(shared_sum);
  BlockSums<2> moments_over_row(shared_moments);
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const auto x = next;
    if (row + 1 < rows.end) next.load(p.x + (row + 1) * p.C, p.C);
    float sum[1] = {};
#pragma unroll
    for (int e = 0; e < kRowElements; ++e) sum[0] += x[e];
    sum_over_row(sum);
    const float guess = sum[0] * inverse_C;

    // The guess is off by the rounding of a sum of large numbers; what is left of the mean once it
    // is taken away has no such error.
    float values[kRowElements], moments[2] = {};
#pragma unroll
    for (int e = 0; e < kRowElements; ++e) {
      values[e] = column_of_pack<kPack>(e / kPack) < p.C ? x[e] - guess : 0.0f;
      moments[0] += values[e];
      moments[1] = fmaf(values[e], values[e], moments[1]);
    }
    moments_over_row(moments);
    const float rest = moments[0] * inverse_C;
    const float rstd = rstd_of(rest, moments[1] * inverse_C, p.eps);
    if (threadIdx.x == 0) {
      p.mean[row] = guess + rest;
      p.rstd[row] = rstd;
    }
#pragma unroll
    for (int e = 0; e < kRowElements; ++e) {
      values[e] = fmaf((values[e] - rest) * rstd, gain[e], offset[e]);
    }
    store_row<kPack>(p.y + row * p.C, p.C, values);
  }
}

template <typename X, typename Y>
__global__ void __launch_bounds__(kWideThreads) forward_wide(const ForwardRows<X, Y> p) {
  __shared__ BlockSums<1>::Shared shared_sum;
  __shared__ BlockSums<2>::Shared shared_moments;
  BlockSums<1> sum_over_row(shared_sum);
  BlockSums<2> moments_over_row(shared_moments);
  const auto rows = p.chunks[blockIdx.x];
  const float *scale = p.scale.row(rows.sample), *shift = p.shift.row(rows.sample);
  const int first = static_cast<int>(threadIdx.x);
  const float inverse_C = 1.0f / static_cast<float>(p.C);
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const X* x = p.x + row * p.C;
    Y* y = p.y + row * p.C;
    float sum[1] = {};
    for (int c = first; c < p.C; c += kWideThreads) sum[0] += to_f32(x[c]);
    sum_over_row(sum);
    const float guess = sum[0] * inverse_C;
    float moments[2] = {};
    for (int c = first; c < p.C; c += kWideThreads) {
      const float d = to_f32(x[c]) - guess;
      moments[0] += d;
      moments[1] = fmaf(d, d, moments[1]);
    }
    moments_over_row(moments);
    const float rest = moments[0] * inverse_C;
    const float rstd = rstd_of(rest, moments[1] * inverse_C, p.eps);
    if (first == 0) {
      p.mean[row] = guess + rest;
      p.rstd[row] = rstd;
    }
    for (int c = first; c < p.C; c += kWideThreads) {
      const float modulation = scale == nullptr ? 1.0f : 1.0f + scale[c];
      const float gain = p.weight == nullptr ? modulation : p.weight[c] * modulation;
      float offset = shift == nullptr ? 0.0f : shift[c];
      if (p.bias != nullptr) offset = fmaf(p.bias[c], modulation, offset);
      y[c] = from_f32<Y>(fmaf((to_f32(x[c]) - guess - rest) * rstd, gain, offset));
    }
  }
}

}  // namespace

void layer_norm_forward(const LayerNormForward& args, const Stream& stream) {
  require_f32("layer_norm",
              {&args.weight, &args.bias, &args.scale, &args.shift, &args.mean, &args.rstd});
  const std::int64_t B = args.x.dim(0), S = args.x.dim(1), C = args.x.dim(2);
  if (B * S * C == 0) return;
  const RowChunks chunks = independent_rows(B, S);
  with_dtypes("layer_norm", args.x.dtype(), args.y.dtype(), [&](auto x_type, auto y_type) {
    using X = decltype(x_type);
    using Y = decltype(y_type);
    const ForwardRows<X, Y> p{.x = data<X>(args.x),
                              .y = data<Y>(args.y),
                              .weight = args.weight.f32(),
                              .bias = args.bias.f32(),
                              .scale = SampleTable(args.scale),
                              .shift = SampleTable(args.shift),
                              .mean = args.mean.f32(),
                              .rstd = args.rstd.f32(),
                              .C = narrow<int>(C),
                              .eps = args.eps,
                              .chunks = chunks};
    const int grid = narrow<int>(chunks.total);
    if (const unsigned threads = row_threads(C, p.x, p.y); threads > 0) {
      forward_rows<<<grid, threads, 0, native(stream)>>>(p);
    } else {
      forward_wide<<<grid, kWideThreads, 0, native(stream)>>>(p);
    }
    DSV_CUDA_LAUNCHED();
  });
}

}  // namespace dsv::kernels::cuda
