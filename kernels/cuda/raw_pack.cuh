// Packs of elements as the 32-bit words they are in memory, for kernels that hold many of them.
// Compared with vector.cuh: a pack that waits between its load and its use takes no more registers
// than bytes, where one of 16-bit elements takes a register each once it lives across a branch; and
// a store is one instruction per 16 bytes because it is written as one, where the compiler leaves
// the members of a struct apart in some loops.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/vector.cuh"

namespace dsv::kernels::cuda {

template <typename T, int N>
struct RawPack {
  static_assert(sizeof(T) * N % 4 == 0);
  static constexpr int kWords = sizeof(T) * N / 4;
  std::uint32_t word[kWords];

  __device__ float operator[](int i) const {
    if constexpr (sizeof(T) == 4) {
      return __uint_as_float(word[i]);
    } else {
      return __uint_as_float(i % 2 == 0 ? word[i / 2] << 16 : word[i / 2] & 0xffff0000u);
    }
  }
};

// At an address aligned to the smaller of 16 bytes and the pack.
template <int N, typename T>
__device__ inline RawPack<T, N> load_raw(const T* from) {
  RawPack<T, N> out;
  constexpr int kWords = RawPack<T, N>::kWords;
  if constexpr (kWords % 4 == 0) {
#pragma unroll
    for (int w = 0; w < kWords; w += 4) {
      const uint4 quad = reinterpret_cast<const uint4*>(from)[w / 4];
      out.word[w] = quad.x, out.word[w + 1] = quad.y;
      out.word[w + 2] = quad.z, out.word[w + 3] = quad.w;
    }
  } else if constexpr (kWords == 2) {
    const uint2 pair = *reinterpret_cast<const uint2*>(from);
    out.word[0] = pair.x, out.word[1] = pair.y;
  } else {
    static_assert(kWords == 1);
    out.word[0] = *reinterpret_cast<const std::uint32_t*>(from);
  }
  return out;
}

template <int N, typename T>
__device__ inline void store_raw(T* to, const RawPack<T, N>& pack) {
  constexpr int kWords = RawPack<T, N>::kWords;
  const auto address = __cvta_generic_to_global(to);
  const auto& word = pack.word;
  if constexpr (kWords % 4 == 0) {
#pragma unroll
    for (int w = 0; w < kWords; w += 4) {
      asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(address + 4 * w), "r"(word[w]),
                   "r"(word[w + 1]), "r"(word[w + 2]), "r"(word[w + 3])
                   : "memory");
    }
  } else if constexpr (kWords == 2) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(address), "r"(word[0]), "r"(word[1])
                 : "memory");
  } else {
    static_assert(kWords == 1);
    asm volatile("st.global.b32 [%0], %1;" ::"l"(address), "r"(word[0]) : "memory");
  }
}

// The same from and to f32. N = 1 is for tensors without packs, at any address.
template <int N, typename T>
__device__ inline void load_pack(const T* from, float (&out)[N]) {
  if constexpr (N == 1) {
    out[0] = to_f32(from[0]);
  } else {
    const auto pack = load_raw<N>(from);
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = pack[i];
  }
}
template <int N, typename T>
__device__ inline void store_pack(T* to, const float (&in)[N]) {
  if constexpr (N == 1) {
    to[0] = from_f32<T>(in[0]);
  } else {
    RawPack<T, N> pack;
#pragma unroll
    for (int w = 0; w < RawPack<T, N>::kWords; ++w) {
      if constexpr (sizeof(T) == 4) {
        pack.word[w] = __float_as_uint(in[w]);
      } else {
        const __nv_bfloat162 two = __floats2bfloat162_rn(in[2 * w], in[2 * w + 1]);
        pack.word[w] = static_cast<std::uint32_t>(__bfloat16_as_ushort(two.y)) << 16 |
                       __bfloat16_as_ushort(two.x);
      }
    }
    store_raw<N>(to, pack);
  }
}

// A pack of parameters: f32, at any address. All lanes of a warp agree on its alignment.
template <int N>
__device__ inline void load_parameter_pack(const float* from, float (&out)[N]) {
  if constexpr (N % 4 == 0) {
    if (reinterpret_cast<std::uintptr_t>(from) % 16 == 0) return load_pack<N>(from, out);
  }
#pragma unroll
  for (int i = 0; i < N; ++i) out[i] = from[i];
}

// How many elements of tensors of these dtypes a thread takes at once: 16 bytes of the widest.
template <typename... Ts>
constexpr int kPackOf = static_cast<int>(16 / std::max({sizeof(Ts)...}));

}  // namespace dsv::kernels::cuda
