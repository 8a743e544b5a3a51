// Pointwise activations: GELU (tanh and erf forms) and SiLU.
#pragma once

#include "dsv/kernels/linear.h"

namespace dsv::kernels {

// gelu_tanh(x) = x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)));  gelu_erf(x) = x/2 * (1 +
// erf(x/sqrt 2)); silu(x) = x / (1 + exp(-x)).
struct ActivationForward {
  Tensor x;  // in   any shape, contiguous, f32|bf16
  Tensor y;  // out  may alias x
  Activation kind = Activation::kGeluTanh;
};

// dx = dy * act'(x).
struct ActivationBackward {
  Tensor x;   // in
  Tensor dy;  // in
  Tensor dx;  // out  may alias dy
  Activation kind = Activation::kGeluTanh;
};

}  // namespace dsv::kernels
