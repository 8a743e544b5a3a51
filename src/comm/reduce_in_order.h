// The one reduction of the host backends: element by element in ascending part order, so that bits
// depend on nothing but the parts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "dsv/comm/communicator.h"

namespace dsv::comm {

// out[i] = op over p of parts[p][i], p ascending, in the arithmetic of dtype. `out` may be one of
// the parts. dtype as Communicator::all_reduce, which checks it.
void reduce_in_order(std::span<const std::byte* const> parts, std::byte* out,
                     std::int64_t num_elements, DType dtype, ReduceOp op);

bool is_reducible(DType dtype);

}  // namespace dsv::comm
