#include "tables/entries.h"

namespace dsv::kernels::cpu {

// Correct first: the naive loop nest until the SIMD filling of this folder lands.
void adamw(const AdamW& args, const Stream& stream) { reference::adamw(args, stream); }

}  // namespace dsv::kernels::cpu
