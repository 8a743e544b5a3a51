#include "tables/entries.h"

namespace dsv::kernels::cpu {

// Correct first: the naive loop nest until the SIMD filling of this folder lands.
void patchify(const Patchify& args, const Stream& stream) { reference::patchify(args, stream); }
void unpatchify(const Patchify& args, const Stream& stream) { reference::unpatchify(args, stream); }

}  // namespace dsv::kernels::cpu
