// Means of runs of rows: what stands for a cube of keys in selection by block means.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// y[b,i,:] = mean over rows j of i's segment of x[b,j,:]; segment n holds rows [start[n], start[n +
// 1]), maybe none, from 0 to S. Sums in f32, ascending. C is contiguous, other strides are free. No
// aliasing.
struct SegmentMean {
  Tensor x;      // in   (B, S, C)  f32|bf16
  Tensor start;  // in   (N + 1) i32, contiguous
  Tensor y;      // out  (B, S, C)  dtype of x
};

}  // namespace dsv::kernels
