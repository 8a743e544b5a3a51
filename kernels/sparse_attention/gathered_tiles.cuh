// Tiles of bf16 rows that lie anywhere in a head, for the mma kernels (attention_tiles.cuh has
// tiles of neighbouring rows).
#pragma once

#include "attention/attention_tiles.cuh"

namespace dsv::kernels::cuda {

// Copies the rows position(0 .. kRows - 1) of one head of several tensors to shared memory, zeros
// in place of rows whose position is negative and of columns from D on. Tile i goes to `tile` plus
// i times `distance`. As TileSource: asynchronous where rows are packable.
template <int kTensors, int kRows, int kDim, int kThreads, typename Position>
__device__ inline void gather_rows(const HeadsView<const Bf16> (&tensors)[kTensors],
                                   const HeadTile& head, int D, const Position& position,
                                   Bf16* tile, int distance) {
  constexpr int kChunks = kDim / 8, kStep = kThreads / kChunks;
  const int row = static_cast<int>(threadIdx.x) / kChunks;
  const int column = static_cast<int>(threadIdx.x) % kChunks * 8;
  if (kThreads % kChunks != 0 && row >= kStep) return;
#pragma unroll 4
  for (int r = row; r < kRows; r += kStep) {
    const int at = position(r);
    Bf16* to = tile + r * shared_row(kDim) + column;
#pragma unroll
    for (int i = 0; i < kTensors; ++i, to += distance) {
      const bool there = at >= 0 && column < D;
      const Bf16* const from = tensors[i].row_of(head.b, head.h, there ? at : 0) + column;
      if (tensors[i].packable) {
        copy_async_16(shared_address(to), there ? from : tensors[i].data, there);
      } else {
        Pack<Bf16, 8> pack;
#pragma unroll 1
        for (int e = 0; e < 8; ++e) pack.at[e] = there && column + e < D ? from[e] : Bf16{};
        *reinterpret_cast<Pack<Bf16, 8>*>(to) = pack;
      }
    }
  }
}

}  // namespace dsv::kernels::cuda
