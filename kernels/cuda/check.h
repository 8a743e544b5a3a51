// Errors of the CUDA runtime as dsv::Error. Nothing is formatted here: .cu files include this.
#pragma once

#include <cuda_runtime.h>

#include <initializer_list>

#include "dsv/tensor/tensor.h"

namespace dsv::kernels::cuda {

// Throws Error(kEnvironment) naming the call, CUDA's reason, and the place.
void check_cuda(cudaError_t status, const char* call, const char* file, int line);
// Throws unless the stream is one of a CUDA device and has a session.
void require_session(const Stream& stream);
// Throws unless every defined tensor is f32 or bf16.
void require_f32_or_bf16(const char* op, std::initializer_list<const Tensor*> tensors);
void require_f32(const char* op, std::initializer_list<const Tensor*> tensors);
[[noreturn]] void refuse_dtype(const char* op, DType dtype);

#define DSV_CUDA(call) ::dsv::kernels::cuda::check_cuda((call), #call, __FILE__, __LINE__)
// After every <<<>>>: launch errors (shared memory, grid size) surface at their kernel.
#define DSV_CUDA_LAUNCHED() DSV_CUDA(cudaGetLastError())

}  // namespace dsv::kernels::cuda
