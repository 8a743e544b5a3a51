#include "tables/entries.h"

namespace dsv::kernels::cpu {

// Correct first: the naive loop nest until the SIMD filling of this folder lands.
void geglu_forward(const GegluForward& args, const Stream& stream) { reference::geglu_forward(args, stream); }
void geglu_backward(const GegluBackward& args, const Stream& stream) { reference::geglu_backward(args, stream); }

}  // namespace dsv::kernels::cpu
