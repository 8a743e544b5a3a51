#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("axpby: b = 0 does not read y", "[elementwise]") {
  std::vector<float> x{1, 2}, y{NAN, NAN};
  reference_kernels().axpby({.x = view(x, {2}), .y = view(y, {2}), .a = 3, .b = 0}, {});
  CHECK(y == std::vector<float>{3, 6});
  reference_kernels().axpby({.x = view(x, {2}), .y = view(y, {2}), .a = 1, .b = 2}, {});
  CHECK(y == std::vector<float>{7, 14});
}

}  // namespace
}  // namespace dsv::kernels
