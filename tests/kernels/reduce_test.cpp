#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("sum_squares: leaves out and counts what is not finite", "[reduce]") {
  std::vector<float> x{3, NAN, 4, INFINITY};
  std::vector<double> out(2);
  reference_kernels().sum_squares({.x = view(x, {4}), .out = Tensor(out.data(), DType::kF64, {2})},
                                  {});
  CHECK(out == std::vector<double>{25, 2});
}

}  // namespace
}  // namespace dsv::kernels
