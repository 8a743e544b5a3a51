// Plain element-wise moves: fill, scaled sums, casts.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// y = value.
struct Fill {
  Tensor y;  // out  any shape, contiguous, f32|bf16|f64
  float value = 0;
};

// y = a * x + b * y;  b = 0 does not read y. x and y have the same shape; both contiguous, or both
// 2-D (rows, C) with any row stride.
struct Axpby {
  Tensor x;  // in       f32|bf16
  Tensor y;  // in+out   f32|bf16
  float a = 1;
  float b = 0;
};

// y = x in another dtype (f32, bf16, f16, f64), rounding to nearest even.
struct Cast {
  Tensor x;  // in   contiguous
  Tensor y;  // out  same number of elements, contiguous
};

}  // namespace dsv::kernels
