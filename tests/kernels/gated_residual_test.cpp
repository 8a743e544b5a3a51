#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("gated_residual: by hand", "[gated_residual]") {
  std::vector<float> x{1, 2}, h{3, 4}, gate{10, 100}, y(2);
  reference_kernels().gated_residual_forward({.x = view(x, {1, 1, 2}),
                                              .h = view(h, {1, 1, 2}),
                                              .gate = view(gate, {1, 2}),
                                              .y = view(y, {1, 1, 2})},
                                             {});
  CHECK(y == std::vector<float>{31, 402});
}

}  // namespace
}  // namespace dsv::kernels
