#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("rope: a quarter turn", "[rope]") {
  std::vector<float> x{1, 2}, y(2), cos{0}, sin{1};
  reference_kernels().rope({.x = view(x, {1, 1, 1, 2}),
                            .y = view(y, {1, 1, 1, 2}),
                            .cos = view(cos, {1, 1}),
                            .sin = view(sin, {1, 1})},
                           {});
  CHECK(y == std::vector<float>{-2, 1});
}

}  // namespace
}  // namespace dsv::kernels
