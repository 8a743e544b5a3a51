// Adds one row to every row: modulation tables, position embeddings.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// y[b,n] = x[b,n] + row[n].   f32 arithmetic.
struct BroadcastAddForward {
  Tensor x;    // in   (B, N)  f32|bf16, contiguous
  Tensor row;  // in   (N)     f32
  Tensor y;    // out  (B, N)  dtype of x; may alias x
};

// drow[n] += sum_b dy[b,n].   (dx = dy.)
struct BroadcastAddBackward {
  Tensor dy;    // in      (B, N)  f32|bf16
  Tensor drow;  // in+out  (N)  f32, added to
};

}  // namespace dsv::kernels
