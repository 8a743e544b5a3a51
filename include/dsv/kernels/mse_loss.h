// Weighted mean squared error per sample: the training loss.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// loss[b] = weight[b] * mean_n (pred[b,n] - target[b,n])^2 (weight undefined: 1), summed in f64 in
// an order that depends on n only.
struct MseLossForward {
  Tensor pred;    // in   (B, N)  f32, any stride of B
  Tensor target;  // in   (B, N)  f32, any stride of B
  Tensor weight;  // in   (B)     f32; undefined: 1
  Tensor loss;    // out  (B)     f32
};

// dpred[b,n] = grad_scale * weight[b] * 2 / N * (pred - target).
struct MseLossBackward {
  Tensor pred, target, weight;  // in
  Tensor dpred;                 // out  (B, N)  f32, any stride of B
  float grad_scale = 1;
};

}  // namespace dsv::kernels
