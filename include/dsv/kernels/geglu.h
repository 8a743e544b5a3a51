// GEGLU: the gated feed-forward activation of the dsv family (Shazeer, arXiv 2002.05202).
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// With x = [h | g] along the last dim:  y[r,f] = h[r,f] * gelu_erf(g[r,f]).
struct GegluForward {
  Tensor x;  // in   (rows, 2F)  f32|bf16, contiguous
  Tensor y;  // out  (rows, F)
};

// dx = [dy * gelu_erf(g) | dy * h * gelu_erf'(g)].
struct GegluBackward {
  Tensor x;   // in   (rows, 2F)
  Tensor dy;  // in   (rows, F)
  Tensor dx;  // out  (rows, 2F)  may alias x
};

}  // namespace dsv::kernels
