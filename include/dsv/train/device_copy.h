// Host tensors to the compute device and back, by value.
#pragma once

#include "dsv/autograd/context.h"

namespace dsv::train {

// A copy in the arena of the compute device; undefined stays undefined.
Tensor to_device(const autograd::Context& ctx, const Tensor& host);
// A copy in host memory.
Tensor to_host(const autograd::Context& ctx, const Tensor& device);

}  // namespace dsv::train
