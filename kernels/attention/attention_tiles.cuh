// What the tensor-core kernels of attention share: tiles of bf16 rows into shared memory and out.
// A tile is kDim columns wide, zeros beyond the head dim D (cuda/mma.cuh has its layout).
#pragma once

#include "attention/attention_views.cuh"
#include "cuda/mma.cuh"

namespace dsv::kernels::cuda {

using Bf16 = __nv_bfloat16;

// Copies the same rows of one head of several tensors to shared memory, kRows at a time: tile after
// tile from row `first` on, zeros in place of rows from `num_rows` on and of columns from D on.
// Packable rows are copied asynchronously (copy_async_commit and _wait), others at once, element by
// element. Either way other threads see a tile after a barrier.
template <int kTensors, int kRows, int kDim, int kThreads>
class TileSource {
 public:
  __device__ TileSource(const HeadsView<const Bf16> (&tensors)[kTensors], const HeadTile& tile,
                        int first, int num_rows, int D)
      : left_(column() < D ? num_rows - first - row() : 0), D_(D) {
#pragma unroll
    for (int i = 0; i < kTensors; ++i) {
      const Bf16* const at = tensors[i].row_of(tile.b, tile.h, first + row()) + column();
      from_[i] = reinterpret_cast<std::uintptr_t>(at);
      stride_[i] = 2 * tensors[i].row;
      packable_[i] = tensors[i].packable;
    }
  }

  // The next rows of each tensor; its tile lies `distance` elements behind that of the one before.
  __device__ void start_next(Bf16* tile, int distance) {
    if (kThreads % kChunks == 0 || row() < kStep) {
      Bf16* to = tile + row() * shared_row(kDim) + column();
#pragma unroll
      for (int i = 0; i < kTensors; ++i, to += distance) {
        if (packable_[i]) {
          start_chunks(from_[i], stride_[i], shared_address(to));
        } else {
          copy_elements(from_[i], stride_[i], to);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kTensors; ++i) from_[i] += kRows * stride_[i];
    left_ -= kRows;
  }

 private:
  // A thread keeps to one column of chunks, 16 bytes each, and to every kStep-th row.
  static constexpr int kChunks = kDim / 8, kStep = kThreads / kChunks;
  __device__ static int row() { return static_cast<int>(threadIdx.x) / kChunks; }
  __device__ static int column() { return static_cast<int>(threadIdx.x) % kChunks * 8; }

  __device__ void start_chunks(std::uintptr_t from, std::int64_t stride, std::uint32_t to) const {
#pragma unroll
    for (int r = 0; r < kRows; r += kStep) {
      if (kRows % kStep != 0 && r + row() >= kRows) break;
      copy_async_16(to + 2 * r * shared_row(kDim), reinterpret_cast<const void*>(from), r < left_);
      from += kStep * stride;
    }
  }
  __device__ void copy_elements(std::uintptr_t from, std::int64_t stride, Bf16* to) const {
#pragma unroll 1
    for (int r = 0; r + row() < kRows; r += kStep) {
      const Bf16* const at = reinterpret_cast<const Bf16*>(from);
      Pack<Bf16, 8> pack;
#pragma unroll
      for (int e = 0; e < 8; ++e) pack.at[e] = r < left_ && column() + e < D_ ? at[e] : Bf16{};
      *reinterpret_cast<Pack<Bf16, 8>*>(to + r * shared_row(kDim)) = pack;
      from += kStep * stride;
    }
  }

  // This thread's first element of the next tile. An address and not a pointer, which the compiler
  // would keep twice, for the two ways of copying.
  std::uintptr_t from_[kTensors];
  std::int64_t stride_[kTensors];  // bytes
  bool packable_[kTensors];
  int left_;  // rows that are there, from this thread's first on; none in columns beyond D
  int D_;
};

// A warp's accumulators, row by row times `factor`, rounded to bf16, to the rows [first, num_rows)
// of a head, of which the warp has at most 16 kM. They pass through `rows`, as many rows of shared
// memory that no other warp uses.
template <int kDim, int kM>
__device__ inline void store_rows(const float (&c)[kM][kDim / 8][4], const float (&factor)[kM][2],
                                  Bf16* rows, const HeadsView<Bf16>& to, const HeadTile& tile,
                                  int first, int num_rows, int D) {
  constexpr int kRow = shared_row(kDim), kChunks = kDim / 8;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  __syncwarp();
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Bf16* const row = rows + (m * 16 + half * 8 + g) * kRow + 2 * t;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        *reinterpret_cast<std::uint32_t*>(row + n * 8) = pack_bf16(
            c[m][n][2 * half] * factor[m][half], c[m][n][2 * half + 1] * factor[m][half]);
      }
    }
  }
  __syncwarp();
#pragma unroll 4
  for (int i = lane; i < 16 * kM * kChunks; i += kWarp) {
    const int r = i / kChunks, at = i % kChunks * 8;
    if (first + r >= num_rows || at >= D) continue;
    const Bf16* const from = rows + r * kRow + at;
    Bf16* const out = to.row_of(tile.b, tile.h, first + r) + at;
    if (to.packable) {
      *reinterpret_cast<Pack<Bf16, 8>*>(out) = *reinterpret_cast<const Pack<Bf16, 8>*>(from);
    } else {
      for (int e = 0; e < min(8, D - at); ++e) out[e] = from[e];
    }
  }
}

// What is added to the scores of a key, in units of log2 e; -inf for keys that only fill up a tile.
__device__ inline float key_offset(const float* bias, int key, int num_keys) {
  if (key >= num_keys) return -INFINITY;
  return bias != nullptr ? bias[key] * kLog2E : 0.0f;
}

}  // namespace dsv::kernels::cuda
