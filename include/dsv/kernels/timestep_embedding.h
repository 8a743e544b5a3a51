// Sinusoidal embedding of the diffusion time, computed in double and rounded once.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// With half = F/2 and w_i = exp(-ln(10000) * i / half):  y[b,i] = cos(t[b] w_i),  y[b,half+i] =
// sin(t[b] w_i). t runs over 0..1000. diffusers computes this in f32, which is its largest error at
// large t.
struct TimestepEmbedding {
  Tensor t;  // in   (B)     f32
  Tensor y;  // out  (B, F)  f32, F even
};

}  // namespace dsv::kernels
