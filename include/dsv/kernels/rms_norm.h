// RMSNorm over the last dimension: QK-norm over the full width (Wan).
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// y[r,c] = x[r,c] * rstd[r] * weight[c],   rstd[r] = 1 / sqrt(mean_c(x[r,c]^2) + eps).  f32
// arithmetic. x, y, dy, dx (rows, C) are of one dtype and may have any row stride, the last dim is
// contiguous.
struct RmsNormForward {
  Tensor x;       // in   (rows, C)  f32|bf16
  Tensor weight;  // in   (C)        f32
  Tensor y;       // out  (rows, C)  dtype of x; may alias x exactly
  Tensor rstd;    // out  (rows)     f32
  float eps = 1e-6f;
};

// With a = dy * weight, xhat = x * rstd:  dx = rstd * (a - xhat * mean_c(a * xhat));
// dweight[c] += sum_r dy * xhat.
struct RmsNormBackward {
  Tensor x;        // in      (rows, C)
  Tensor weight;   // in      (C)
  Tensor rstd;     // in      (rows)
  Tensor dy;       // in      (rows, C)
  Tensor dx;       // out     (rows, C)  may alias dy exactly
  Tensor dweight;  // in+out  (C)        f32, added to; undefined: frozen
};

}  // namespace dsv::kernels
