// A kernel table for tests whose tensors lie on the host although its kernels run on a GPU
// (hosted_call.h).
#pragma once

#include "dsv/kernels/kernel_table.h"
#include "dsv/tensor/cuda_device.h"

namespace dsv::test {

// The cuda table for tensors on the host; the stream that a call is given does not matter.
const kernels::KernelTable& hosted_cuda_kernels();

}  // namespace dsv::test
