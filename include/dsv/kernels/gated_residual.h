// Residual add with an optional per-sample, per-channel gate: how attention and FFN join the
// stream.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// y[b,s,c] = x[b,s,c] + gate[b,c] * h[b,s,c]   (gate undefined: 1). f32 arithmetic; x,
// h, y, dy, dh are of one dtype.
struct GatedResidualForward {
  Tensor x;     // in   (B, S, C)  f32|bf16, contiguous
  Tensor h;     // in   (B, S, C)
  Tensor gate;  // in   (B, C)     f32, any row stride; undefined: 1
  Tensor y;     // out  (B, S, C)  may alias x
};

// dh[b,s,c] = gate[b,c] * dy[b,s,c];   dgate[b,c] = sum_s dy * h.   (dx = dy: nothing to compute.)
struct GatedResidualBackward {
  Tensor h;      // in   (B, S, C)  needed for dgate
  Tensor gate;   // in   (B, C)
  Tensor dy;     // in   (B, S, C)
  Tensor dh;     // out  (B, S, C)  must not alias dy
  Tensor dgate;  // out  (B, C)     f32, any row stride, overwritten; undefined: not wanted
};

}  // namespace dsv::kernels
