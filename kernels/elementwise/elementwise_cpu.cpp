#include "tables/entries.h"

namespace dsv::kernels::cpu {

// Correct first: the naive loop nest until the SIMD filling of this folder lands.
void fill(const Fill& args, const Stream& stream) { reference::fill(args, stream); }
void axpby(const Axpby& args, const Stream& stream) { reference::axpby(args, stream); }
void cast(const Cast& args, const Stream& stream) { reference::cast(args, stream); }

}  // namespace dsv::kernels::cpu
