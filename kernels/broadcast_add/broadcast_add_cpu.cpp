#include "tables/entries.h"

namespace dsv::kernels::cpu {

// Correct first: the naive loop nest until the SIMD filling of this folder lands.
void broadcast_add_forward(const BroadcastAddForward& args, const Stream& stream) { reference::broadcast_add_forward(args, stream); }
void broadcast_add_backward(const BroadcastAddBackward& args, const Stream& stream) { reference::broadcast_add_backward(args, stream); }

}  // namespace dsv::kernels::cpu
