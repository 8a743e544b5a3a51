// What a collective expects of its arguments on this rank alone. A violation is wrong use of the
// library and throws through DSV_CHECK.
#pragma once

#include <span>

#include "dsv/tensor/tensor.h"

namespace dsv::comm {

// Defined, contiguous, on `device`.
void check_tensor(const char* op, const Tensor& t, Device device);
void check_reducible(const char* op, const Tensor& t);
// Both as check_tensor, with rows of the same dtype and size.
void check_rows(const char* op, const Tensor& in, const Tensor& out, Device device);
void check_num_rows(const char* op, const char* which, const Tensor& t, std::int64_t expected);
// One count ≥ 0 per rank.
void check_counts(const char* op, std::span<const std::int64_t> counts, int size);
void check_disjoint(const char* op, const Tensor& in, const Tensor& out);

// Bytes of one slice of dim 0.
std::int64_t row_bytes(const Tensor& t);

}  // namespace dsv::comm
