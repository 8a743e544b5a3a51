#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("timestep_embedding: first pair turns with t itself", "[timestep_embedding]") {
  std::vector<float> t{2}, y(4);
  reference_kernels().timestep_embedding({.t = view(t, {1}), .y = view(y, {1, 4})}, {});
  CHECK(y[0] == Approx(std::cos(2.0)));
  CHECK(y[1] == Approx(std::cos(0.02)));
  CHECK(y[2] == Approx(std::sin(2.0)));
  CHECK(y[3] == Approx(std::sin(0.02)));
}

}  // namespace
}  // namespace dsv::kernels
