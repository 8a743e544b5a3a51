// Flow matching's noisy input and regression target in one pass.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// x_t[b,n] = (1 - sigma[b]) * x0[b,n] + sigma[b] * noise[b,n];
// target[b,n] = target_sign * (noise[b,n] - x0[b,n])   (+1: Wan's v, -1: the paper's).
struct FlowMix {
  Tensor x0, noise;    // in   (B, N)  f32, contiguous
  Tensor sigma;        // in   (B)     f32
  Tensor x_t, target;  // out  (B, N)  f32; x_t may alias x0, target may alias noise
  float target_sign = 1;
};

}  // namespace dsv::kernels
