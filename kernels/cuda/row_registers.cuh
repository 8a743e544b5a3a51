// A row of C elements in the registers of one block: for kernels that need a sum over the row
// before they can write it, and read it from memory once.
#pragma once

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/raw_pack.cuh"
#include "cuda/reduce.cuh"
#include "dsv/base/check_math.h"

namespace dsv::kernels::cuda {

// --- Rows -------------------------------------------------------------------------------------

// Each thread has this many elements of the row. With half as many, sums over the block would cost
// as much as the arithmetic on the elements.
constexpr int kRowElements = 16;
constexpr int kMaxRowThreads = 384, kMaxRowWarps = kMaxRowThreads / kWarp;

// Threads of a block that holds rows of C elements in packs of `pack`; 0 if they do not fit.
inline unsigned row_threads(std::int64_t C, int pack) {
  const std::int64_t threads = round_up(ceil_div(C, kRowElements), kWarp);
  return C % pack == 0 && threads <= kMaxRowThreads ? static_cast<unsigned>(threads) : 0;
}

// The same for contiguous rows of these tensors.
template <typename... Ts>
unsigned row_threads(std::int64_t C, const Ts*... rows) {
  const bool packable = (is_packable(rows, C, kPackOf<Ts...>) && ...);
  return packable ? row_threads(C, kPackOf<Ts...>) : 0;
}

// The first column of the calling thread's pack j. Neighbouring threads have neighbouring packs.
template <int kPack>
__device__ inline int column_of_pack(int j) {
  return (j * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kPack;
}

// The calling thread's elements of a row; element e is number e % kPack of pack e / kPack.
template <typename T, int kPack>
struct RowRegisters {
  static constexpr int kPacks = kRowElements / kPack;
  RawPack<T, kPack> pack[kPacks];

  // Packs beyond column C stay what they are: zeros, if the registers were made as {}.
  __device__ void load(const T* row, int C) {
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      const int column = column_of_pack<kPack>(j);
      if (column < C) pack[j] = load_raw<kPack>(row + column);
    }
  }
  __device__ float operator[](int e) const {
    return pack[e / kPack][e % kPack];
  }
};

template <int kPack, typename T>
__device__ inline void store_row(T* row, int C, const float (&values)[kRowElements]) {
#pragma unroll
  for (int j = 0; j < kRowElements / kPack; ++j) {
    float part[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) part[i] = values[j * kPack + i];
    const int column = column_of_pack<kPack>(j);
    if (column < C) store_pack<kPack>(row + column, part);
  }
}

// The calling thread's elements of a row of parameters: `otherwise` beyond column C, and everywhere
// for a row that is not given.
template <int kPack>
__device__ inline void load_parameters(const float* row, int C, float otherwise,
                                       float (&out)[kRowElements]) {
#pragma unroll
  for (int j = 0; j < kRowElements / kPack; ++j) {
    float part[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) part[i] = otherwise;
    const int column = column_of_pack<kPack>(j);
    if (row != nullptr && column < C) load_parameter_pack<kPack>(row + column, part);
#pragma unroll
    for (int i = 0; i < kPack; ++i) out[j * kPack + i] = part[i];
  }
}

// --- Sums over the block ------------------------------------------------------------------

// Sums of kCount values at a time over a block of up to kMaxRowThreads threads, in an order that
// depends on the block's size alone. Calls take turns at two halves of the shared memory, which
// leaves one barrier per call: whoever writes a half has passed the barrier of the call in between,
// before which everybody had read it.
template <int kCount>
class BlockSums {
 public:
  struct Shared {
    alignas(16) float of_warp[2][kCount][kMaxRowWarps];
  };

  __device__ explicit BlockSums(Shared& shared) : shared_(shared) {
    // Warps that the block does not have count as zeros.
    for (int i = static_cast<int>(threadIdx.x); i < 2 * kCount * kMaxRowWarps;
         i += static_cast<int>(blockDim.x)) {
      (&shared.of_warp[0][0][0])[i] = 0;
    }
    __syncthreads();
  }

  // Every thread gets the sums.
  __device__ void operator()(float (&values)[kCount]) {
#pragma unroll
    for (int q = 0; q < kCount; ++q) values[q] = warp_sum(values[q]);
    if (blockDim.x == kWarp) return;
    float(&of_warp)[kCount][kMaxRowWarps] = shared_.of_warp[turn_];
    turn_ ^= 1;
    if (threadIdx.x % kWarp == 0) {
#pragma unroll
      for (int q = 0; q < kCount; ++q) of_warp[q][threadIdx.x / kWarp] = values[q];
    }
    __syncthreads();
#pragma unroll
    for (int q = 0; q < kCount; ++q) {
      float4 sum = *reinterpret_cast<const float4*>(&of_warp[q][0]);
#pragma unroll
      for (int w = 4; w < kMaxRowWarps; w += 4) {
        if (w * kWarp >= static_cast<int>(blockDim.x)) break;
        const float4 more = *reinterpret_cast<const float4*>(&of_warp[q][w]);
        sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
      }
      values[q] = (sum.x + sum.y) + (sum.z + sum.w);
    }
  }

 private:
  Shared& shared_;
  int turn_ = 0;
};

}  // namespace dsv::kernels::cuda
