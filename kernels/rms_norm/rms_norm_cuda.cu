// A block has a chunk of rows and reads them once: a row stays in registers between its sum and its
// output, while the next row is on its way, and every thread keeps the weights of its columns and,
// backward, their sums of dy * xhat. Rows that do not fit in registers, or not in packs, take the
// _wide kernels, which read a row again for each pass.
#include "cuda/row_chunks.cuh"
#include "cuda/row_registers.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kWideThreads = 256;

// --- Forward ----------------------------------------------------------------------------------

template <typename T>
struct ForwardRows {
  const T* x;
  const float* weight;
  T* y;  // may be x
  float* rstd;
  std::int64_t x_stride, y_stride;
  int C;
  float eps;
  RowChunks chunks;
};

// 96 registers leave room for two blocks on a multiprocessor at C = 5120, for seven at C = 1536.
template <typename T>
__global__ void __maxnreg__(96) forward_rows(const ForwardRows<T> p) {
  constexpr int kPack = kPackOf<T>;
  __shared__ BlockSums<1>::Shared shared_sum;
  const auto rows = p.chunks[blockIdx.x];
  RowRegisters<T, kPack> next{};
  next.load(p.x + rows.begin * p.x_stride, p.C);
  float weight[kRowElements];
  load_parameters<kPack>(p.weight, p.C, 0.0f, weight);
  const float C = static_cast<float>(p.C);
  BlockSums<1> sum_over_row(shared_sum);
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const auto x = next;
    if (row + 1 < rows.end) next.load(p.x + (row + 1) * p.x_stride, p.C);
    float square[1] = {};
#pragma unroll
    for (int e = 0; e < kRowElements; ++e) square[0] = fmaf(x[e], x[e], square[0]);
    sum_over_row(square);
    const float rstd = 1.0f / sqrtf(square[0] / C + p.eps);
    if (threadIdx.x == 0) p.rstd[row] = rstd;
    float values[kRowElements];
#pragma unroll
    for (int e = 0; e < kRowElements; ++e) values[e] = x[e] * rstd * weight[e];
    store_row<kPack>(p.y + row * p.y_stride, p.C, values);
  }
}

template <typename T>
__global__ void __launch_bounds__(kWideThreads) forward_wide(const ForwardRows<T> p) {
  __shared__ BlockSums<1>::Shared shared_sum;
  BlockSums<1> sum_over_row(shared_sum);
  const auto rows = p.chunks[blockIdx.x];
  const int first = static_cast<int>(threadIdx.x);
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const T* x = p.x + row * p.x_stride;
    T* y = p.y + row * p.y_stride;
    float square[1] = {};
    for (int c = first; c < p.C; c += kWideThreads) {
      square[0] = fmaf(to_f32(x[c]), to_f32(x[c]), square[0]);
    }
    sum_over_row(square);
    const float rstd = 1.0f / sqrtf(square[0] / static_cast<float>(p.C) + p.eps);
    if (first == 0) p.rstd[row] = rstd;
    for (int c = first; c < p.C; c += kWideThreads) {
      y[c] = from_f32<T>(to_f32(x[c]) * rstd * p.weight[c]);
    }
  }
}

// --- Backward ---------------------------------------------------------------------------------

template <typename T>
struct BackwardRows {
  const T *x, *dy;
  const float *weight, *rstd;
  T* dx;            // may be dy
  float* partials;  // (chunks, C): sum dy * xhat; null: not wanted
  std::int64_t x_stride, dy_stride, dx_stride;
  int C;
  RowChunks chunks;
};

template <typename T>
__global__ void __launch_bounds__(kMaxRowThreads) backward_rows(const BackwardRows<T> p) {
  constexpr int kPack = kPackOf<T>;
  __shared__ BlockSums<1>::Shared shared_sum;
  const auto rows = p.chunks[blockIdx.x];
  RowRegisters<T, kPack> next_x{}, next_dy{};
  next_x.load(p.x + rows.begin * p.x_stride, p.C);
  next_dy.load(p.dy + rows.begin * p.dy_stride, p.C);
  float next_rstd = p.rstd[rows.begin];
  float weight[kRowElements], sum_dy_xhat[kRowElements] = {};
  load_parameters<kPack>(p.weight, p.C, 0.0f, weight);
  const float inverse_C = 1.0f / static_cast<float>(p.C);
  BlockSums<1> sum_over_row(shared_sum);
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const auto x = next_x, dy = next_dy;
    const float rstd = next_rstd;
    if (row + 1 < rows.end) {
      next_x.load(p.x + (row + 1) * p.x_stride, p.C);
      next_dy.load(p.dy + (row + 1) * p.dy_stride, p.C);
      next_rstd = p.rstd[row + 1];
    }
    float sum[1] = {};  // of a * xhat, a = dy * weight
#pragma unroll
    for (int e = 0; e < kRowElements; ++e) {
      const float dy_xhat = dy[e] * (x[e] * rstd);
      sum_dy_xhat[e] += dy_xhat;
      sum[0] = fmaf(dy_xhat, weight[e], sum[0]);
    }
    sum_over_row(sum);
    const float mean_ax = sum[0] * inverse_C;
    float values[kRowElements];
#pragma unroll
    for (int e = 0; e < kRowElements; ++e) {
      values[e] = rstd * fmaf(-(x[e] * rstd), mean_ax, dy[e] * weight[e]);
    }
    store_row<kPack>(p.dx + row * p.dx_stride, p.C, values);
  }
  if (p.partials == nullptr) return;
  store_row<kPack>(p.partials + std::int64_t{blockIdx.x} * p.C, p.C, sum_dy_xhat);
}

template <typename T>
__global__ void __launch_bounds__(kWideThreads) backward_wide(const BackwardRows<T> p) {
  __shared__ BlockSums<1>::Shared shared_sum;
  BlockSums<1> sum_over_row(shared_sum);
  const auto rows = p.chunks[blockIdx.x];
  const int first = static_cast<int>(threadIdx.x);
  // A thread's own columns only, so that plain reads and writes do.
  float* partial = p.partials + (p.partials == nullptr ? 0 : std::int64_t{blockIdx.x} * p.C);
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const T* x = p.x + row * p.x_stride;
    const T* dy = p.dy + row * p.dy_stride;
    T* dx = p.dx + row * p.dx_stride;
    const float rstd = p.rstd[row];
    float sum[1] = {};
    for (int c = first; c < p.C; c += kWideThreads) {
      const float dy_xhat = to_f32(dy[c]) * (to_f32(x[c]) * rstd);
      sum[0] = fmaf(dy_xhat, p.weight[c], sum[0]);
      if (partial != nullptr) partial[c] = row == rows.begin ? dy_xhat : partial[c] + dy_xhat;
    }
    sum_over_row(sum);
    const float mean_ax = sum[0] / static_cast<float>(p.C);
    for (int c = first; c < p.C; c += kWideThreads) {
      dx[c] =
          from_f32<T>(rstd * fmaf(-(to_f32(x[c]) * rstd), mean_ax, to_f32(dy[c]) * p.weight[c]));
    }
  }
}

__global__ void weight_gradient(const float* partials, std::int64_t num_chunks, std::int64_t C,
                                float* dweight) {
  const std::int64_t c = std::int64_t{blockIdx.x} * kSumColumns + threadIdx.x;
  double sum[1];
  column_totals(partials, num_chunks, C, c, sum);
  if (threadIdx.y != 0 || c >= C) return;
  dweight[c] = static_cast<float>(static_cast<double>(dweight[c]) + sum[0]);
}

}  // namespace

void rms_norm_forward(const RmsNormForward& args, const Stream& stream) {
  require_f32("rms_norm", {&args.weight, &args.rstd});
  const std::int64_t num_rows = args.x.dim(0), C = args.x.dim(1);
  DSV_CHECK(args.y.dtype() == args.x.dtype(), "[rms_norm] x is {}, y is {}", args.x.dtype(),
            args.y.dtype());
  if (num_rows * C == 0) return;
  const RowChunks chunks = independent_rows(1, num_rows);
  const int grid = narrow<int>(chunks.total);
  with_dtype("rms_norm", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    const ForwardRows<T> p{.x = data<T>(args.x),
                           .weight = args.weight.f32(),
                           .y = data<T>(args.y),
                           .rstd = args.rstd.f32(),
                           .x_stride = args.x.stride(0),
                           .y_stride = args.y.stride(0),
                           .C = narrow<int>(C),
                           .eps = args.eps,
                           .chunks = chunks};
    const bool packable =
        is_packable(p.x, p.x_stride, kPackOf<T>) && is_packable(p.y, p.y_stride, kPackOf<T>);
    if (const unsigned threads = row_threads(C, kPackOf<T>); packable && threads > 0) {
      forward_rows<<<grid, threads, 0, native(stream)>>>(p);
    } else {
      forward_wide<<<grid, kWideThreads, 0, native(stream)>>>(p);
    }
    DSV_CUDA_LAUNCHED();
  });
}

void rms_norm_backward(const RmsNormBackward& args, const Stream& stream) {
  require_f32("rms_norm", {&args.weight, &args.rstd, &args.dweight});
  const std::int64_t num_rows = args.x.dim(0), C = args.x.dim(1);
  DSV_CHECK(args.dy.dtype() == args.x.dtype() && args.dx.dtype() == args.x.dtype(),
            "[rms_norm] x is {}, dy is {}, dx is {}", args.x.dtype(), args.dy.dtype(),
            args.dx.dtype());
  if (num_rows * C == 0) return;
  const RowChunks chunks = summed_rows(1, num_rows);
  const int grid = narrow<int>(chunks.total);
  float* const partials = args.dweight ? scratch<float>(stream, chunks.total * C) : nullptr;
  with_dtype("rms_norm", args.x.dtype(), [&](auto type) {
    using T = decltype(type);
    const BackwardRows<T> p{.x = data<T>(args.x),
                            .dy = data<T>(args.dy),
                            .weight = args.weight.f32(),
                            .rstd = args.rstd.f32(),
                            .dx = data<T>(args.dx),
                            .partials = partials,
                            .x_stride = args.x.stride(0),
                            .dy_stride = args.dy.stride(0),
                            .dx_stride = args.dx.stride(0),
                            .C = narrow<int>(C),
                            .chunks = chunks};
    const bool packable = is_packable(p.x, p.x_stride, kPackOf<T>) &&
                          is_packable(p.dy, p.dy_stride, kPackOf<T>) &&
                          is_packable(p.dx, p.dx_stride, kPackOf<T>);
    if (const unsigned threads = row_threads(C, kPackOf<T>); packable && threads > 0) {
      backward_rows<<<grid, threads, 0, native(stream)>>>(p);
    } else {
      backward_wide<<<grid, kWideThreads, 0, native(stream)>>>(p);
    }
    DSV_CUDA_LAUNCHED();
  });
  if (partials == nullptr) return;
  weight_gradient<<<num_blocks(C, kSumColumns), sum_block(), 0, native(stream)>>>(
      partials, chunks.total, C, args.dweight.f32());
  DSV_CUDA_LAUNCHED();
}

}  // namespace dsv::kernels::cuda
