#include "tables/entries.h"

namespace dsv::kernels::cpu {

// Correct first: the naive loop nest until the SIMD filling of this folder lands.
void random_fill(const RandomFill& args, const Stream& stream) { reference::random_fill(args, stream); }

}  // namespace dsv::kernels::cpu
