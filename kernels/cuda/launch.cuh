// Launching: grid sizes, and one instantiation per dtype.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>

#include "cuda/session.h"

namespace dsv::kernels::cuda {

constexpr int kWarp = 32;

inline unsigned num_blocks(std::int64_t n, std::int64_t d) {
  return static_cast<unsigned>((n + d - 1) / d);
}

// Blocks for a grid-stride loop over `n` pieces of work, `per_block` at a time: at most `waves`
// times what the device holds at once with `blocks_per_sm`. 0 pieces: 0 blocks, do not launch.
inline unsigned grid_for(const Session& session, std::int64_t n, std::int64_t per_block,
                         int blocks_per_sm = 8) {
  const std::int64_t most = std::int64_t{session.num_sms} * blocks_per_sm;
  return static_cast<unsigned>(std::min<std::int64_t>((n + per_block - 1) / per_block, most));
}

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.raw());
}

// fn(T{}) with T = float or __nv_bfloat16.
template <typename Fn>
void with_dtype(const char* op, DType dtype, const Fn& fn) {
  switch (dtype) {
    case DType::kF32: return fn(float{});
    case DType::kBF16: return fn(__nv_bfloat16{});
    default: refuse_dtype(op, dtype);
  }
}
template <typename Fn>
void with_dtypes(const char* op, DType a, DType b, const Fn& fn) {
  with_dtype(op, a, [&](auto x) { with_dtype(op, b, [&](auto y) { fn(x, y); }); });
}

}  // namespace dsv::kernels::cuda
