// Fills a tensor with Philox numbers: noise is a pure function of its key, never of state or
// layout.
#pragma once

#include "dsv/base/philox.h"
#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

enum class RandomKind { kUniform, kNormal };

// y[e] = mean + std * z(key, first_element + e): z uniform on (0,1), or standard normal (Box-Muller
// in double, rounded once), as dsv/base/philox.h defines both.
struct RandomFill {
  Tensor y;  // out  any shape, contiguous, f32
  PhiloxKey key;
  RandomKind kind = RandomKind::kNormal;
  std::uint64_t first_element = 0;
  float mean = 0;
  float std = 1;
};

}  // namespace dsv::kernels
