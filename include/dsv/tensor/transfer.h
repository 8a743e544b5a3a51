// Copies between devices, in the order of a stream.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv {

// to = from, byte by byte: same dtype and number of elements, both contiguous, on any two devices.
// Valid when the stream reaches it; copies to the host return when the bytes are there. The source
// may change as soon as the call returns, unless it is pinned memory: that must stay as it is until
// the stream gets here.
void transfer(const Tensor& from, const Tensor& to, const Stream& stream);

}  // namespace dsv
