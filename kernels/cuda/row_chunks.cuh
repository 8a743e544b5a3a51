// Sums over rows that are the same on every device: rows are cut into chunks by the shape alone, a
// block adds up the columns of its chunk in f32 registers, and a second kernel adds the chunks'
// partial sums in a fixed order, in f64.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/launch.cuh"

namespace dsv::kernels::cuda {

// The rows of all samples, counted through, in chunks that never cross from one sample to the next.
struct RowChunks {
  std::int64_t rows_per_sample = 0, rows_per_chunk = 1, per_sample = 0, total = 0;

  // About `wanted` chunks, of `least` to `most` rows.
  RowChunks(std::int64_t num_samples, std::int64_t rows, std::int64_t wanted, std::int64_t least,
            std::int64_t most)
      : rows_per_sample(rows),
        rows_per_chunk(std::clamp((num_samples * rows + wanted - 1) / wanted, least, most)),
        per_sample((rows + rows_per_chunk - 1) / rows_per_chunk),
        total(num_samples * per_sample) {}

  struct Rows {
    std::int64_t sample, begin, end;
  };
  __device__ Rows operator[](std::int64_t chunk) const {
    const std::int64_t sample = chunk / per_sample;
    const std::int64_t first = (chunk - sample * per_sample) * rows_per_chunk;
    const std::int64_t begin = sample * rows_per_sample + first;
    return {sample, begin, begin + min(rows_per_chunk, rows_per_sample - first)};
  }
};

// Chunks for kernels whose rows have nothing to do with each other: enough of them to keep every
// multiprocessor busy to the end, long enough to pay for what a block reads once (gain, offset).
inline RowChunks independent_rows(std::int64_t num_samples, std::int64_t rows) {
  return RowChunks(num_samples, rows, 2048, 1, 32);
}
// Chunks for kernels that leave a partial sum of every column behind: the partial sums are a few
// percent of what is read, and one f32 sum has at most 256 terms.
inline RowChunks summed_rows(std::int64_t num_samples, std::int64_t rows) {
  return RowChunks(num_samples, rows, 1024, 8, 256);
}

// A (B, C) f32 tensor of any row stride, or none: a row of parameters, or of their gradient, for
// each sample.
struct SampleTable {
  float* data;
  std::int64_t stride;

  explicit SampleTable(const Tensor& t) : data(t.f32()), stride(t.defined() ? t.stride(0) : 0) {}
  __device__ float* row(std::int64_t sample) const {
    return data == nullptr ? nullptr : data + sample * stride;
  }
};

// --- Adding up the chunks ---------------------------------------------------------------------

// A block of the second kernel: threads along x have a column each, threads along y take turns at
// the chunks.
constexpr int kSumColumns = 16, kSumGroups = 32;
inline dim3 sum_block() {
  return dim3(kSumColumns, kSumGroups);
}

// totals[q] = sum over chunks of partials[chunk, q, column], for partials (num_chunks, kCount, C).
// All threads of the block call it, a column beyond C included; the threads with threadIdx.y = 0
// get the totals.
template <int kCount>
__device__ inline void column_totals(const float* partials, std::int64_t num_chunks, std::int64_t C,
                                     std::int64_t column, double (&totals)[kCount]) {
  __shared__ double of_group[kCount][kSumGroups][kSumColumns];
#pragma unroll
  for (int q = 0; q < kCount; ++q) totals[q] = 0;
  if (column < C) {
#pragma unroll 8
    for (std::int64_t chunk = threadIdx.y; chunk < num_chunks; chunk += kSumGroups) {
#pragma unroll
      for (int q = 0; q < kCount; ++q) {
        totals[q] += static_cast<double>(partials[(chunk * kCount + q) * C + column]);
      }
    }
  }
#pragma unroll
  for (int q = 0; q < kCount; ++q) of_group[q][threadIdx.y][threadIdx.x] = totals[q];
  __syncthreads();
  if (threadIdx.y == 0) {
#pragma unroll
    for (int q = 0; q < kCount; ++q) {
      totals[q] = 0;
#pragma unroll
      for (int g = 0; g < kSumGroups; ++g) totals[q] += of_group[q][g][threadIdx.x];
    }
  }
  __syncthreads();  // a second call may overwrite of_group
}

}  // namespace dsv::kernels::cuda
