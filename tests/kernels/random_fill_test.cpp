#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("random_fill: element e is philox_normal(key, e)", "[random_fill]") {
  std::vector<float> y(7);
  const PhiloxKey key{.seed = 5, .step = 3, .sample = 9};
  reference_kernels().random_fill({.y = view(y, {7}), .key = key, .first_element = 2}, {});
  for (std::size_t e = 0; e < 7; ++e) CHECK(y[e] == static_cast<float>(philox_normal(key, e + 2)));
}

}  // namespace
}  // namespace dsv::kernels
