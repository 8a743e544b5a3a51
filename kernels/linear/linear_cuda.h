// What the cuda filling of linear is made of beside cuBLASLt.
#pragma once

#include "cuda/session.h"
#include "dsv/kernels/linear.h"

namespace dsv::kernels::cuda {

// One operand of gemm_simt: element (i, k) lies at data[i * row + k * column].
struct SimtOperand {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t row = 0, column = 0;
};

// c[m,n] = sum_k a(m,k) * b(n,k) + bias[n], added to c when accumulate; c has dtype c_type and rows
// `c_row` apart. Multiplies and adds in f32, for each element in ascending k whatever M and N, so
// that a row's result does not depend on the rows beside it. linear_simt_cuda.cu.
struct SimtGemm {
  std::int64_t M = 0, N = 0, K = 0;
  SimtOperand a, b;
  SimtOperand bias;  // data null: none
  void* c = nullptr;
  DType c_type = DType::kF32;
  std::int64_t c_row = 0;
  bool accumulate = false;
};
void gemm_simt(const SimtGemm& gemm, const Stream& stream);

// out[n] += sum_r x[r,n]: chunks of rows in f32, chunks added in ascending order in f64. x (rows,
// N) f32|bf16 with any row stride, out f32. linear_simt_cuda.cu.
void add_column_sums(const Tensor& x, const Tensor& out, const Stream& stream);

}  // namespace dsv::kernels::cuda
