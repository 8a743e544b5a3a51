// Rotary position embedding from tables: each token brings its own angles, so it follows any token
// order.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// Interleaved pairs:  (y[2i], y[2i+1]) = (x[2i] cos - x[2i+1] sin, x[2i] sin + x[2i+1] cos) with
// the angle of (token s, pair i). inverse rotates back, which is also the gradient.
struct Rope {
  Tensor x;         // in   (B, S, H, D)  f32|bf16, any strides for B, S, H
  Tensor y;         // out  (B, S, H, D)  dtype of x; may alias x exactly
  Tensor cos, sin;  // in   (S, D/2)      f32, contiguous
  bool inverse = false;
};

}  // namespace dsv::kernels
