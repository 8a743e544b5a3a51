// What every own attention kernel on CUDA shares: heads as rows in any strides, the numbering of
// blocks, and delta.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"
#include "dsv/base/check_math.h"

namespace dsv::kernels::cuda {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// Below every finite score. Maxima begin here and not at -inf, so that what a masked score is
// relative to is a number: its weight is exp(-inf) = 0, also in rows that have no other.
constexpr float kLowest = -3e38f;

// A view (B, S, H, D): element (b, s, h, d) lies at data + b batch + s row + h head + d.
template <typename T>
struct HeadsView {
  T* data = nullptr;
  std::int64_t batch = 0, row = 0, head = 0;
  bool packable = false;  // rows begin at multiples of 16 bytes and are as long

  __device__ T* row_of(int b, int h, int s) const { return data + b * batch + h * head + s * row; }
};

template <typename T>
HeadsView<T> heads_view(const Tensor& t) {
  constexpr int kRun = 16 / sizeof(T);
  HeadsView<T> view{data<T>(t), t.stride(0), t.stride(1), t.stride(2), t.dim(3) % kRun == 0};
  for (const int d : {0, 1, 2}) view.packable &= is_packable(view.data, t.stride(d), kRun);
  return view;
}

// Blocks are numbered head by head: those that run at one time share the K and V of few heads,
// which then stay in L2.
struct HeadTile {
  int b, h;
  int first;  // first row of the tile

  // Place of a head's first row in (B, H, num_rows).
  __device__ std::int64_t rows_before(int H, int num_rows) const {
    return (static_cast<std::int64_t>(b) * H + h) * num_rows;
  }
};
// Reads the block's number afresh: a kernel may ask again when it stores its results, in place of
// keeping the tile in registers until then.
__device__ inline HeadTile head_tile(int num_rows, int rows_per_tile, int H) {
  const int tiles = (num_rows + rows_per_tile - 1) / rows_per_tile;
  int block;
  asm volatile("mov.u32 %0, %%ctaid.x;\n" : "=r"(block));
  const int head = block / tiles;
  return {head / H, head % H, block % tiles * rows_per_tile};
}
inline int num_head_tiles(std::int64_t B, std::int64_t H, std::int64_t num_rows,
                          int rows_per_tile) {
  // Rows are counted in int, up to a tile past the last.
  DSV_CHECK(num_rows < std::int64_t{1} << 30, "[attention] expected at most 2^30 tokens, got {}",
            num_rows);
  return narrow<std::int32_t>(B * H * ceil_div(num_rows, rows_per_tile));
}

// Lets a kernel use as much dynamic shared memory as this.
template <typename Kernel>
void allow_shared_bytes(Kernel* kernel, int bytes) {
  DSV_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

// fn(std::integral_constant<int, padded>) with the first of kDims that holds D.
template <int kDim, int... kMore, typename Fn>
void with_padded_dim(std::int64_t D, const Fn& fn) {
  if constexpr (sizeof...(kMore) > 0) {
    if (D > kDim) return with_padded_dim<kMore...>(D, fn);
  }
  DSV_CHECK(D <= kDim, "[attention] no kernel for a head dim of {}", D);
  fn(std::integral_constant<int, kDim>{});
}

// delta[b, h, i] = <o_i, do_i>: a warp takes one row at a time.
constexpr int kDeltaWarps = 8, kDeltaRows = 64;  // of a block

template <typename T>
__global__ void __launch_bounds__(kDeltaWarps* kWarp)
    attention_delta_kernel(HeadsView<const T> o, HeadsView<const T> d_o, float* delta, int Sq,
                           int H, int D) {
  const HeadTile at = head_tile(Sq, kDeltaRows, H);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int end = min(at.first + kDeltaRows, Sq);
  for (int i = at.first + static_cast<int>(threadIdx.x) / kWarp; i < end; i += kDeltaWarps) {
    const T* const o_row = o.row_of(at.b, at.h, i);
    const T* const do_row = d_o.row_of(at.b, at.h, i);
    float sum = 0;
    for (int c = lane; c < D; c += kWarp) sum = fmaf(to_f32(o_row[c]), to_f32(do_row[c]), sum);
    sum = warp_sum(sum);
    if (lane == 0) delta[at.rows_before(H, Sq) + i] = sum;
  }
}

template <typename T>
void launch_delta(const Tensor& o, const Tensor& d_o, const Tensor& delta, const Stream& stream) {
  const std::int64_t B = o.dim(0), Sq = o.dim(1), H = o.dim(2);
  if (B * H * Sq == 0) return;
  attention_delta_kernel<T>
      <<<num_head_tiles(B, H, Sq, kDeltaRows), kDeltaWarps * kWarp, 0, native(stream)>>>(
          heads_view<const T>(o), heads_view<const T>(d_o), delta.f32(), static_cast<int>(Sq),
          static_cast<int>(H), static_cast<int>(o.dim(3)));
  DSV_CUDA_LAUNCHED();
}

}  // namespace dsv::kernels::cuda
