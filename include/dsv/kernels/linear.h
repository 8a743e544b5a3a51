// Linear layer (GEMM) with optional bias, activation, and gradient accumulation.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

enum class Activation { kNone, kGeluTanh, kGeluErf, kSilu };

// y[r,n] = act(sum_k x[r,k] * weight[n,k] + bias[n]).   Accumulates in f32.
// x and y may have any row stride (last dim contiguous); weight is contiguous. No aliasing.
struct LinearForward {
  Tensor x;       // in   (rows, K)  f32|bf16
  Tensor weight;  // in   (N, K)     dtype of x
  Tensor bias;    // in   (N)        dtype of x; undefined: none
  Tensor y;       // out  (rows, N)  dtype of x
  Activation activation = Activation::kNone;
  Tensor pre_activation;  // out (rows, N) the value before act; needed iff activation is not kNone
};

// dx[r,k] = sum_n dy[r,n] * weight[n,k];   dweight[n,k] += sum_r dy[r,n] * x[r,k];   dbias[n] +=
// sum_r dy[r,n]. dy is the gradient before the activation. Undefined outputs are skipped. dx may be
// added to.
struct LinearBackward {
  Tensor x;        // in      (rows, K)
  Tensor weight;   // in      (N, K)
  Tensor dy;       // in      (rows, N)
  Tensor dx;       // out     (rows, K)  dtype of x; undefined: not wanted
  Tensor dweight;  // in+out  (N, K)     f32, added to; undefined: frozen
  Tensor dbias;    // in+out  (N)        f32, added to
  bool accumulate_dx = false;
};

}  // namespace dsv::kernels
