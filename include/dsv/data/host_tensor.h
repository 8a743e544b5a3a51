// Host memory of the data room: loader threads and encoders allocate outside of the ranks' arenas.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::data {

// Uninitialised contiguous host tensor, 64-byte aligned, freed with its last view; any thread.
// Throws Error(kEnvironment) when out of memory.
Tensor host_tensor(const Shape& shape, DType dtype = DType::kF32);

}  // namespace dsv::data
