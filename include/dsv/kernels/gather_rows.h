// Rows in another order.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// y[b, i, :] = x[b, index[i], :], bit for bit. Indices are in [0, S); the caller vouches for them. C
// is contiguous in both, other strides are free. No aliasing.
struct GatherRows {
  Tensor x;      // in   (B, S, C)  f32|bf16
  Tensor index;  // in   (N) i32, contiguous
  Tensor y;      // out  (B, N, C)  dtype of x
};

}  // namespace dsv::kernels
