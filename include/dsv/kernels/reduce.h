// Sums over everything: gradient norms and finiteness.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// out[0] = sum of x^2 in f64, out[1] = number of non-finite elements (which out[0] leaves out).
// The order of summation depends on the size only, so the result is the same for any thread count.
struct SumSquares {
  Tensor x;    // in   any shape, contiguous, f32|bf16
  Tensor out;  // out  (2) f64
};

}  // namespace dsv::kernels
