// Rows without a sum along them: a thread has one pack of columns, keeps in registers whatever it
// needs for these, and goes down a chunk of rows, several at a time.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/raw_pack.cuh"
#include "cuda/row_chunks.cuh"
#include "dsv/base/check_math.h"

namespace dsv::kernels::cuda {

// A grid over chunks of rows of C ≥ 1 columns: `blocks_per_row` blocks of up to 256 threads, side
// by side, cover a row of packs; there is one such run of blocks for each chunk.
struct ColumnGrid {
  std::int64_t C;
  unsigned blocks_per_row, threads;

  ColumnGrid(std::int64_t num_columns, int pack) : C(num_columns) {
    const std::int64_t packs = ceil_div(C, pack);
    blocks_per_row = cuda::num_blocks(packs, 256);
    threads = static_cast<unsigned>(round_up(ceil_div(packs, blocks_per_row), kWarp));
  }
  int num_blocks(std::int64_t num_chunks) const { return narrow<int>(num_chunks * blocks_per_row); }

  __device__ std::int64_t chunk() const { return blockIdx.x / blocks_per_row; }
  // The first column of the calling thread's pack; C or more for threads that have none.
  template <int kPack>
  __device__ std::int64_t column() const {
    return (std::int64_t{blockIdx.x % blocks_per_row} * blockDim.x + threadIdx.x) * kPack;
  }
};

// fn(row, integral_constant<int, n>) for runs of n rows from `row` on. A body that loads all n
// before it stores any keeps n rows in flight, whatever its tensors alias.
template <typename Fn>
__device__ inline void for_row_runs(std::int64_t begin, std::int64_t end, const Fn& fn) {
  constexpr int kRun = 4;
  std::int64_t row = begin;
  for (; row + kRun <= end; row += kRun) fn(row, std::integral_constant<int, kRun>{});
  for (; row < end; ++row) fn(row, std::integral_constant<int, 1>{});
}

}  // namespace dsv::kernels::cuda
