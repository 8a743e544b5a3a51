// What the cpu fillings check of their arguments: the dtype. Shapes are the caller's.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "dsv/tensor/tensor.h"

namespace dsv::kernels::cpu {

// The smallest share of an element-wise loop that is worth a thread: 64 KiB of f32.
inline constexpr std::int64_t kElementGrain = 16384;

// Throws unless every defined tensor is f32.
inline void require_f32(const char* op, std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* tensor : tensors) {
    if (!tensor->defined() || tensor->dtype() == DType::kF32) continue;
    throw_error(ExitCode::kConfig,
                "[{}] the cpu backend computes in f32, got {}; set precision.compute: auto", op,
                tensor->dtype());
  }
}

}  // namespace dsv::kernels::cpu
