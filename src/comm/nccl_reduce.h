// The ordered reduction on a GPU: NCCL only carries the parts, so that sums depend on nothing but
// them.
#pragma once

#include "transport.h"

namespace dsv::comm {

// Enqueues the reduction on the stream of the current device: the bits of reduce_in_order, except
// those of a NaN. Returns what CUDA says against it, or null. dtype as Communicator::all_reduce,
// which checks it.
const char* enqueue_reduction(const Reduction& reduction, const Stream& stream);

}  // namespace dsv::comm
