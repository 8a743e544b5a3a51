#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("geglu: by hand", "[geglu]") {
  std::vector<float> x{3, 1}, y(1);
  reference_kernels().geglu_forward({.x = view(x, {1, 2}), .y = view(y, {1, 1})}, {});
  CHECK(y[0] == Approx(3 * 0.8413447460685429));
}

}  // namespace
}  // namespace dsv::kernels
