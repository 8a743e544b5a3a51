#include "tables/entries.h"

namespace dsv::kernels::cpu {

// Correct first: the naive loop nest until the SIMD filling of this folder lands.
void rope(const Rope& args, const Stream& stream) { reference::rope(args, stream); }

}  // namespace dsv::kernels::cpu
