#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("broadcast_add: by hand", "[broadcast_add]") {
  std::vector<float> x{1, 2, 3, 4}, row{10, 20}, y(4), drow{1, 1};
  reference_kernels().broadcast_add_forward(
      {.x = view(x, {2, 2}), .row = view(row, {2}), .y = view(y, {2, 2})}, {});
  CHECK(y == std::vector<float>{11, 22, 13, 24});
  reference_kernels().broadcast_add_backward({.dy = view(x, {2, 2}), .drow = view(drow, {2})}, {});
  CHECK(drow == std::vector<float>{5, 7});
}

}  // namespace
}  // namespace dsv::kernels
