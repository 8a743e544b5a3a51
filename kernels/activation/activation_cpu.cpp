#include "tables/entries.h"

namespace dsv::kernels::cpu {

// Correct first: the naive loop nest until the SIMD filling of this folder lands.
void activation_forward(const ActivationForward& args, const Stream& stream) { reference::activation_forward(args, stream); }
void activation_backward(const ActivationBackward& args, const Stream& stream) { reference::activation_backward(args, stream); }

}  // namespace dsv::kernels::cpu
