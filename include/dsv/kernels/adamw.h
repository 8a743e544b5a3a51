// AdamW with decoupled weight decay, EMA, and the compute-dtype copy, fused in one pass over flat
// ranges. Source: Loshchilov and Hutter, arXiv 1711.05101; formula as PyTorch's.
#pragma once

#include <cstdint>
#include <span>

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// Elements [begin, end) of the flat tensors; frozen elements are simply not listed.
struct AdamWSegment {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  float weight_decay = 0;
};

// g = grad * grad_scale;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;
// p = p * (1 - lr * weight_decay) - lr * (m / c1) / (sqrt(v / c2) + eps), c_i = 1 - b_i^step;
// ema = ema_decay * ema + (1 - ema_decay) * p;  copy = round(p).   All state is f32, step counts
// from 1.
struct AdamW {
  Tensor param, grad, m, v;  // in+out (n) f32 (grad is only read)
  Tensor ema;                // in+out (n) f32; undefined: no EMA
  Tensor copy;               // out    (n) f32|bf16; undefined: compute uses param itself
  std::span<const AdamWSegment> segments;
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double grad_scale = 1;  // clipping and accumulation
  double ema_decay = 0;
  std::int64_t step = 1;
};

}  // namespace dsv::kernels
