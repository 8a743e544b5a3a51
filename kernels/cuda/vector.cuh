// Elements as f32 and back, and runs of them as one access (raw_pack.cuh has loads and stores).
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace dsv::kernels::cuda {

__device__ inline float to_f32(float x) { return x; }
__device__ inline float to_f32(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T>
__device__ inline T from_f32(float x) {
  if constexpr (sizeof(T) == 2) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

// N elements at a 16-byte (or N * sizeof(T)-byte) aligned address.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

// Whether runs of n elements at multiples of `stride` elements from `p` can be accessed as packs.
template <typename T>
bool is_packable(const T* p, std::int64_t stride, int n) {
  const auto bytes = static_cast<std::uintptr_t>(n) * sizeof(T);
  return reinterpret_cast<std::uintptr_t>(p) % bytes == 0 && stride % n == 0;
}

}  // namespace dsv::kernels::cuda
