// The two products that the predictor's gradient is made of (README.md), for rows and for keys:
// P = sum_i x_i p_i^T, a (D + r + 1, r) matrix of a head, and out_i = P^T x_i. Plain multiply-adds.
#pragma once

#include "score_stats/score_tiles.cuh"

namespace dsv::kernels::cuda {

// x = (main, low_rank, 1), times a row's three coefficients where there are any; p = low_rank.
template <typename T>
struct Factors {
  HeadsView<const T> main, low_rank;
  const std::int32_t* rows;   // null: all, in order
  const float* coefficients;  // (B, H, num_rows, 3); null: 1
  int D, r, H, num_rows;

  __device__ __host__ int width() const { return D + r + 1; }
  __device__ float x(int head, int i, int w) const {
    const int row = rows != nullptr ? rows[i] : i, b = head / H, h = head % H;
    const int part = w < D ? 0 : w < D + r ? 1 : 2;
    const float value = part == 0   ? to_f32(main.row_of(b, h, row)[w])
                        : part == 1 ? to_f32(low_rank.row_of(b, h, row)[w - D])
                                    : 1.0f;
    if (coefficients == nullptr) return value;
    return value * coefficients[(static_cast<std::int64_t>(head) * num_rows + i) * 3 + part];
  }
  __device__ float p(int head, int i, int c) const {
    return to_f32(low_rank.row_of(head / H, head % H, rows != nullptr ? rows[i] : i)[c]);
  }
};

constexpr int kFactorThreads = 256, kFactorColumns = 16;
constexpr int kOuterWidth = 64, kOuterRows = 32;  // of a block of P; rows at a time
constexpr int kApplyRows = 32, kApplyDepth = 64;

// partials[head, chunk] (width, r) = P over the chunk's rows.
template <typename T>
__global__ void __launch_bounds__(kFactorThreads)
    outer_sum_kernel(const Factors<T> from, int num_chunks, int chunk_rows, float* partials) {
  __shared__ float x[kOuterRows][kOuterWidth + 1], p[kOuterRows][kFactorColumns + 1];
  const int thread = static_cast<int>(threadIdx.x);
  const int tx = thread % kFactorColumns, ty = thread / kFactorColumns;
  constexpr int kSteps = kOuterWidth / (kFactorThreads / kFactorColumns);
  const int block = static_cast<int>(blockIdx.x), head = block / num_chunks;
  const int first_w = static_cast<int>(blockIdx.y) * kOuterWidth;
  const int first_c = static_cast<int>(blockIdx.z) * kFactorColumns;
  const int begin = block % num_chunks * chunk_rows;
  const int end = min(begin + chunk_rows, from.num_rows);
  float sum[kSteps] = {};
  for (int first = begin; first < end; first += kOuterRows) {
    __syncthreads();
    for (int e = thread; e < kOuterRows * kOuterWidth; e += kFactorThreads) {
      const int i = first + e / kOuterWidth, w = first_w + e % kOuterWidth;
      x[e / kOuterWidth][e % kOuterWidth] = i < end && w < from.width() ? from.x(head, i, w) : 0.0f;
    }
    for (int e = thread; e < kOuterRows * kFactorColumns; e += kFactorThreads) {
      const int i = first + e / kFactorColumns, c = first_c + e % kFactorColumns;
      p[e / kFactorColumns][e % kFactorColumns] = i < end && c < from.r ? from.p(head, i, c) : 0.0f;
    }
    __syncthreads();
    float part[kSteps] = {};
#pragma unroll 4
    for (int i = 0; i < kOuterRows; ++i) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) part[s] = fmaf(x[i][ty + s * 16], p[i][tx], part[s]);
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s) sum[s] += part[s];
  }
  const int c = first_c + tx;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int w = first_w + ty + s * 16;
    if (w >= from.width() || c >= from.r) continue;
    partials[(static_cast<std::int64_t>(block) * from.width() + w) * from.r + c] = sum[s];
  }
}

// sums[head] = the head's partial sums, in order.
__global__ void add_partials_kernel(const float* partials, int num_chunks, std::int64_t matrix,
                                    std::int64_t total, float* sums) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const float* const from = partials + i / matrix * num_chunks * matrix + i % matrix;
  double sum = 0;
#pragma unroll 4
  for (int chunk = 0; chunk < num_chunks; ++chunk) {
    sum += static_cast<double>(from[chunk * matrix]);
  }
  sums[i] = static_cast<float>(sum);
}

// out (B, num_rows, H, r) = P^T x.
template <typename T>
__global__ void __launch_bounds__(kFactorThreads)
    apply_kernel(const Factors<T> from, int row_tiles, const float* products, float* out) {
  __shared__ float x[kApplyRows][kApplyDepth + 1], m[kApplyDepth][kFactorColumns];
  const int thread = static_cast<int>(threadIdx.x);
  const int tx = thread % kFactorColumns, ty = thread / kFactorColumns;
  const int block = static_cast<int>(blockIdx.x), head = block / row_tiles;
  const int first = block % row_tiles * kApplyRows;
  const int first_c = static_cast<int>(blockIdx.y) * kFactorColumns, c = first_c + tx;
  const float* const matrix = products + static_cast<std::int64_t>(head) * from.width() * from.r;
  float sum[2] = {};
  for (int first_w = 0; first_w < from.width(); first_w += kApplyDepth) {
    __syncthreads();
    for (int e = thread; e < kApplyRows * kApplyDepth; e += kFactorThreads) {
      const int i = first + e / kApplyDepth, w = first_w + e % kApplyDepth;
      x[e / kApplyDepth][e % kApplyDepth] =
          i < from.num_rows && w < from.width() ? from.x(head, i, w) : 0.0f;
    }
    for (int e = thread; e < kApplyDepth * kFactorColumns; e += kFactorThreads) {
      const int w = first_w + e / kFactorColumns, at = first_c + e % kFactorColumns;
      m[e / kFactorColumns][e % kFactorColumns] =
          w < from.width() && at < from.r ? matrix[w * from.r + at] : 0.0f;
    }
    __syncthreads();
#pragma unroll 8
    for (int w = 0; w < kApplyDepth; ++w) {
      sum[0] = fmaf(x[ty][w], m[w][tx], sum[0]);
      sum[1] = fmaf(x[ty + 16][w], m[w][tx], sum[1]);
    }
  }
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    const int i = first + ty + s * 16;
    if (i >= from.num_rows || c >= from.r) continue;
    const std::int64_t row = static_cast<std::int64_t>(head / from.H) * from.num_rows + i;
    out[(row * from.H + head % from.H) * from.r + c] = sum[s];
  }
}

}  // namespace dsv::kernels::cuda
