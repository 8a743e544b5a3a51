#include "tables/entries.h"

namespace dsv::kernels::cpu {

// Correct first: the naive loop nest until the SIMD filling of this folder lands.
void flow_mix(const FlowMix& args, const Stream& stream) { reference::flow_mix(args, stream); }

}  // namespace dsv::kernels::cpu
