// Backward. As forward, a row of x and of dy stays in registers while the next is on its way. All
// four parameter gradients follow from two sums over rows, of dy and of dy * xhat: every thread
// keeps them for its columns, and leaves them as partial sums of its chunk, which a second kernel
// adds up.
#include <type_traits>

#include "cuda/row_chunks.cuh"
#include "cuda/row_registers.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kWideThreads = 256;

template <typename X, typename DY, typename DX>
struct BackwardRows {
  const X* x;
  const DY* dy;
  DX* dx;
  const float* weight;
  SampleTable scale;
  const float *mean, *rstd;
  float* partials;  // (chunks, 2, C): sum dy, sum dy * xhat; null: not wanted
  int C;
  bool accumulate_dx;
  RowChunks chunks;
};

template <typename X, typename DY>
__global__ void __launch_bounds__(kMaxRowThreads) backward_rows(const BackwardRows<X, DY, X> p) {
  constexpr int kPack = kPackOf<X, DY>;
  __shared__ BlockSums<2>::Shared shared_sums;
  const auto rows = p.chunks[blockIdx.x];
  RowRegisters<X, kPack> next_x{}, dx{};
  RowRegisters<DY, kPack> next_dy{};
  next_x.load(p.x + rows.begin * p.C, p.C);
  next_dy.load(p.dy + rows.begin * p.C, p.C);
  float next_mean = p.mean[rows.begin], next_rstd = p.rstd[rows.begin];

  float gain[kRowElements];
  {
    float scale[kRowElements];
    load_parameters<kPack>(p.scale.row(rows.sample), p.C, 0.0f, scale);
    load_parameters<kPack>(p.weight, p.C, 1.0f, gain);
#pragma unroll
    for (int e = 0; e < kRowElements; ++e) gain[e] *= 1.0f + scale[e];
  }

  const float inverse_C = 1.0f / static_cast<float>(p.C);
  float sum_dy[kRowElements] = {}, sum_dy_xhat[kRowElements] = {};
  BlockSums<2> sums_over_row(shared_sums);
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const auto x = next_x;
    const auto dy = next_dy;
    const float mean = next_mean, rstd = next_rstd;
    if (p.accumulate_dx) dx.load(p.dx + row * p.C, p.C);
    if (row + 1 < rows.end) {
      next_x.load(p.x + (row + 1) * p.C, p.C);
      next_dy.load(p.dy + (row + 1) * p.C, p.C);
      next_mean = p.mean[row + 1];
      next_rstd = p.rstd[row + 1];
    }
    float sums[2] = {};  // of a and a * xhat, a = dy * gain; dy is zero beyond column C
#pragma unroll
    for (int e = 0; e < kRowElements; ++e) {
      const float xhat = (x[e] - mean) * rstd, a = dy[e] * gain[e];
      sums[0] += a;
      sums[1] = fmaf(a, xhat, sums[1]);
      sum_dy[e] += dy[e];
      sum_dy_xhat[e] = fmaf(dy[e], xhat, sum_dy_xhat[e]);
    }
    sums_over_row(sums);
    const float mean_a = sums[0] * inverse_C, mean_ax = sums[1] * inverse_C;
    float values[kRowElements];
#pragma unroll
    for (int e = 0; e < kRowElements; ++e) {
      const float xhat = (x[e] - mean) * rstd;
      values[e] = rstd * fmaf(-xhat, mean_ax, fmaf(dy[e], gain[e], -mean_a));
      if (p.accumulate_dx) values[e] += dx[e];
    }
    store_row<kPack>(p.dx + row * p.C, p.C, values);
  }
  if (p.partials == nullptr) return;
  float* partial = p.partials + std::int64_t{blockIdx.x} * 2 * p.C;
  store_row<kPack>(partial, p.C, sum_dy);
  store_row<kPack>(partial + p.C, p.C, sum_dy_xhat);
}

template <typename X, typename DY, typename DX>
__global__ void __launch_bounds__(kWideThreads) backward_wide(const BackwardRows<X, DY, DX> p) {
  __shared__ BlockSums<2>::Shared shared_sums;
  BlockSums<2> sums_over_row(shared_sums);
  const auto rows = p.chunks[blockIdx.x];
  const float* scale = p.scale.row(rows.sample);
  const auto gain = [&](int c) {
    const float modulation = scale == nullptr ? 1.0f : 1.0f + scale[c];
    return p.weight == nullptr ? modulation : p.weight[c] * modulation;
  };
  const int first = static_cast<int>(threadIdx.x);
  const float inverse_C = 1.0f / static_cast<float>(p.C);
  // A thread's own columns only, so that plain reads and writes do.
  float* partial = p.partials + (p.partials == nullptr ? 0 : std::int64_t{blockIdx.x} * 2 * p.C);
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const X* x = p.x + row * p.C;
    const DY* dy = p.dy + row * p.C;
    DX* dx = p.dx + row * p.C;
    const float mean = p.mean[row], rstd = p.rstd[row];
    float sums[2] = {};
#pragma unroll 2
    for (int c = first; c < p.C; c += kWideThreads) {
      const float d = to_f32(dy[c]), xhat = (to_f32(x[c]) - mean) * rstd, a = d * gain(c);
      sums[0] += a;
      sums[1] = fmaf(a, xhat, sums[1]);
      if (partial == nullptr) continue;
      const bool fresh = row == rows.begin;
      partial[c] = fresh ? d : partial[c] + d;
      partial[p.C + c] = fresh ? d * xhat : fmaf(d, xhat, partial[p.C + c]);
    }
    sums_over_row(sums);
    const float mean_a = sums[0] * inverse_C, mean_ax = sums[1] * inverse_C;
#pragma unroll 2
    for (int c = first; c < p.C; c += kWideThreads) {
      const float xhat = (to_f32(x[c]) - mean) * rstd;
      float value = rstd * fmaf(-xhat, mean_ax, fmaf(to_f32(dy[c]), gain(c), -mean_a));
      if (p.accumulate_dx) value += to_f32(dx[c]);
      dx[c] = from_f32<DX>(value);
    }
  }
}

struct ParameterGradients {
  const float* partials;  // (B, chunks, 2, C)
  const float *weight, *bias;
  SampleTable scale;
  float *dweight, *dbias;
  SampleTable dscale, dshift;
  std::int64_t B, chunks_per_sample, C;
};

__global__ void parameter_gradients(const ParameterGradients p) {
  const std::int64_t c = std::int64_t{blockIdx.x} * kSumColumns + threadIdx.x;
  const bool writes = threadIdx.y == 0 && c < p.C;
  double dweight = 0, dbias = 0;
  for (std::int64_t b = 0; b < p.B; ++b) {
    double sums[2];  // of dy and dy * xhat
    column_totals(p.partials + b * p.chunks_per_sample * 2 * p.C, p.chunks_per_sample, p.C, c,
                  sums);
    if (!writes) continue;
    const float* scale = p.scale.row(b);
    const double modulation = scale == nullptr ? 1.0 : 1.0 + static_cast<double>(scale[c]);
    const double weight = p.weight == nullptr ? 1.0 : static_cast<double>(p.weight[c]);
    const double bias = p.bias == nullptr ? 0.0 : static_cast<double>(p.bias[c]);
    if (p.dscale.data != nullptr) {
      p.dscale.row(b)[c] = static_cast<float>(weight * sums[1] + bias * sums[0]);
    }
    if (p.dshift.data != nullptr) p.dshift.row(b)[c] = static_cast<float>(sums[0]);
    dweight += modulation * sums[1];
    dbias += modulation * sums[0];
  }
  if (!writes) return;
  if (p.dweight != nullptr) {
    p.dweight[c] = static_cast<float>(static_cast<double>(p.dweight[c]) + dweight);
  }
  if (p.dbias != nullptr) {
    p.dbias[c] = static_cast<float>(static_cast<double>(p.dbias[c]) + dbias);
  }
}

}  // namespace

void layer_norm_backward(const LayerNormBackward& args, const Stream& stream) {
  require_f32("layer_norm", {&args.weight, &args.bias, &args.scale, &args.mean, &args.rstd,
                             &args.dweight, &args.dbias, &args.dscale, &args.dshift});
  const std::int64_t B = args.x.dim(0), S = args.x.dim(1), C = args.x.dim(2);
  if (C == 0) return;
  const RowChunks chunks = summed_rows(B, S);
  const bool sums = args.dweight || args.dbias || args.dscale || args.dshift;
  float* const partials = sums ? scratch<float>(stream, chunks.total * 2 * C) : nullptr;
  const auto run = [&](auto x_type, auto dy_type, auto dx_type) {
    using X = decltype(x_type);
    using DY = decltype(dy_type);
    using DX = decltype(dx_type);
    const BackwardRows<X, DY, DX> p{.x = data<X>(args.x),
                                    .dy = data<DY>(args.dy),
                                    .dx = data<DX>(args.dx),
                                    .weight = args.weight.f32(),
                                    .scale = SampleTable(args.scale),
                                    .mean = args.mean.f32(),
                                    .rstd = args.rstd.f32(),
                                    .partials = partials,
                                    .C = narrow<int>(C),
                                    .accumulate_dx = args.accumulate_dx,
                                    .chunks = chunks};
    const int grid = narrow<int>(chunks.total);
    const unsigned threads = row_threads(C, p.x, p.dy, p.dx);
    if constexpr (std::is_same_v<X, DX>) {  // gradients have the dtype of their values
      if (threads > 0) backward_rows<<<grid, threads, 0, native(stream)>>>(p);
    }
    if (threads == 0 || !std::is_same_v<X, DX>) {
      backward_wide<<<grid, kWideThreads, 0, native(stream)>>>(p);
    }
    DSV_CUDA_LAUNCHED();
  };
  if (chunks.total > 0) {
    with_dtypes("layer_norm", args.x.dtype(), args.dy.dtype(), [&](auto x, auto dy) {
      with_dtype("layer_norm", args.dx.dtype(), [&](auto dx) { run(x, dy, dx); });
    });
  }
  if (!sums) return;
  parameter_gradients<<<num_blocks(C, kSumColumns), sum_block(), 0, native(stream)>>>(
      {.partials = partials,
       .weight = args.weight.f32(),
       .bias = args.bias.f32(),
       .scale = SampleTable(args.scale),
       .dweight = args.dweight.f32(),
       .dbias = args.dbias.f32(),
       .dscale = SampleTable(args.dscale),
       .dshift = SampleTable(args.dshift),
       .B = B,
       .chunks_per_sample = chunks.per_sample,
       .C = C});
  DSV_CUDA_LAUNCHED();
}

}  // namespace dsv::kernels::cuda
