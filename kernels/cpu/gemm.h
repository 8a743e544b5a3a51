// f32 matrix product of the cpu filling: linear layers, forward and both gradients.
#pragma once

#include <cstdint>
#include <functional>

#include "dsv/tensor/device.h"

namespace dsv::kernels::cpu {

// A matrix in memory: element (i, j) is data[i * stride + j], or data[j * stride + i] if transposed.
struct GemmOperand {
  const float* data = nullptr;
  std::int64_t stride = 0;
  bool transposed = false;
};

// c[m, n] = sum_k a(m, k) * b(k, n), added to c when `accumulate`; c is row-major, row stride
// c_stride, and overlaps neither operand. Every element is summed in the same order whatever M, N,
// the place in the matrix, and the number of threads: depth blocks of 256 from k = 0, in each one
// multiply-add after the other.
struct Gemm {
  std::int64_t M = 0, N = 0, K = 0;
  GemmOperand a, b;
  float* c = nullptr;
  std::int64_t c_stride = 0;
  bool accumulate = false;
  // Called once for each finished piece of c, by the thread that has it in its cache; together the
  // pieces cover c. Must not throw.
  std::function<void(std::int64_t row, std::int64_t num_rows, std::int64_t column,
                     std::int64_t num_columns)>
      finish;
};
void gemm(const Gemm& args, const Stream& stream);

}  // namespace dsv::kernels::cpu
