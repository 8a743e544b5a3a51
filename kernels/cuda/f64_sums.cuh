// Sums over many elements in f64, in an order that depends on their number alone: they are cut into
// chunks, a block adds up one, each thread its own packs, and a last block adds up the chunks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/raw_pack.cuh"
#include "cuda/reduce.cuh"
#include "dsv/base/check_math.h"

namespace dsv::kernels::cuda {

constexpr int kChunkThreads = 256;  // of a block that has a chunk
constexpr int kLastThreads = 1024;  // of the block that adds up the chunks

// Elements per chunk of n: at most 8192 chunks, and room in each for a few rounds of packs.
inline std::int64_t chunk_of(std::int64_t n) {
  return round_up(ceil_div(std::max<std::int64_t>(n, 1), 8192), 16384);
}

// The elements [begin, end) in packs that the threads of a block take in turns. A thread calls
// whole(i, integral_constant<int, n>) for n packs of its own, at i, i + kPackStride<kPack>, …, and
// rest(i, lane) for element i, number `lane` of the pack that `end` cuts off.
template <int kPack>
constexpr std::int64_t kPackStride = std::int64_t{kChunkThreads} * kPack;

template <int kPack, int kRun, typename Whole, typename Rest>
__device__ inline void for_own_packs(std::int64_t begin, std::int64_t end, const Whole& whole,
                                     const Rest& rest) {
  constexpr std::int64_t kStride = kPackStride<kPack>;
  std::int64_t i = begin + std::int64_t{threadIdx.x} * kPack;
  for (; i + (kRun - 1) * kStride + kPack <= end; i += kRun * kStride) {
    whole(i, std::integral_constant<int, kRun>{});
  }
  for (; i + kPack <= end; i += kStride) whole(i, std::integral_constant<int, 1>{});
#pragma unroll
  for (int lane = 0; lane < kPack; ++lane) {
    if (i + lane < end) rest(i + lane, lane);
  }
}

// n packs of one call of whole(), element by element unless they are known to be aligned.
template <bool kAligned, int n, int kPack, typename T>
__device__ inline void load_packs(const T* from, float (&out)[n][kPack]) {
#pragma unroll
  for (int r = 0; r < n; ++r) {
    const T* pack = from + r * kPackStride<kPack>;
    if constexpr (kAligned) {
      load_pack<kPack>(pack, out[r]);
    } else {
#pragma unroll
      for (int i = 0; i < kPack; ++i) out[r][i] = to_f32(pack[i]);
    }
  }
}

// A sum in several parts, so that one addition need not wait for the one before.
struct LanesSum {
  static constexpr int kLanes = 4;
  double lane[kLanes] = {};

  __device__ void add_square(double value, int i) {
    lane[i % kLanes] = fma(value, value, lane[i % kLanes]);
  }
  __device__ double total() const { return (lane[0] + lane[1]) + (lane[2] + lane[3]); }
};

// The sum of n partial sums `stride` apart, by a block of kLastThreads.
__device__ inline double last_sum(const double* partials, std::int64_t n, std::int64_t stride) {
  __shared__ double shared[kLastThreads / kWarp];
  double sum = 0;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < n; i += kLastThreads) sum += partials[i * stride];
  return block_sum<kLastThreads>(sum, shared);
}

}  // namespace dsv::kernels::cuda
