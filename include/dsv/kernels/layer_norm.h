// LayerNorm over channels, optionally affine, fused with adaptive modulation (AdaLN).
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// n[b,s,c] = (x - mean[b,s]) * rstd[b,s] * weight[c] + bias[c];   y = n * (1 + scale[b,c]) +
// shift[b,c]. weight/bias and scale/shift are given or undefined in pairs. Statistics and
// arithmetic in f32 (variance from centred values: large means must not cancel).
struct LayerNormForward {
  Tensor x;             // in   (B, S, C)  f32|bf16, contiguous
  Tensor weight, bias;  // in   (C)        f32
  Tensor scale, shift;  // in   (B, C)     f32, any row stride
  Tensor y;             // out  (B, S, C)  f32|bf16 contiguous; must not alias x
  Tensor mean, rstd;    // out  (B, S)     f32
  float eps = 1e-6f;
};

// With g = dy * (1 + scale), xhat = (x - mean) * rstd, a = g * weight:
// dx = rstd * (a - mean_c(a) - xhat * mean_c(a * xhat)), added to dx when accumulate_dx;
// dweight[c] += sum g * xhat;  dbias[c] += sum g;  dscale[b,c] = sum_s dy * n;  dshift[b,c] = sum_s
// dy.
struct LayerNormBackward {
  Tensor x;               // in      (B, S, C)
  Tensor weight, bias;    // in      (C)
  Tensor scale;           // in      (B, C)
  Tensor mean, rstd;      // in      (B, S)
  Tensor dy;              // in      (B, S, C)
  Tensor dx;              // out     (B, S, C)  f32|bf16; may alias dy only when not accumulate_dx
  Tensor dweight, dbias;  // in+out  (C)  f32, added to
  Tensor dscale, dshift;  // out     (B, C)  f32, any row stride, overwritten
  bool accumulate_dx = false;
};

}  // namespace dsv::kernels
