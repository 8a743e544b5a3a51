// Sums over a warp and over a block, in an order that depends on the block's size alone.
#pragma once

namespace dsv::kernels::cuda {

// Every lane gets the sum over the warp.
template <typename T>
__device__ inline T warp_sum(T value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  return value;
}

// Every thread gets the sum over a block of `kThreads` (a multiple of 32); `shared` holds
// kThreads / 32 values and may be used again after the call.
template <int kThreads, typename T>
__device__ inline T block_sum(T value, T* shared) {
  value = warp_sum(value);
  if constexpr (kThreads > 32) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    if (lane == 0) shared[warp] = value;
    __syncthreads();
    value = T(0);
#pragma unroll
    for (int w = 0; w < kThreads / 32; ++w) value += shared[w];
    __syncthreads();
  }
  return value;
}

}  // namespace dsv::kernels::cuda
