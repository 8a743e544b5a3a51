#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("activation: known values", "[activation]") {
  const auto at_one = [](Activation kind) {
    std::vector<float> x{1}, y(1);
    reference_kernels().activation_forward({.x = view(x, {1}), .y = view(y, {1}), .kind = kind},
                                           {});
    return y[0];
  };
  CHECK(at_one(Activation::kGeluErf) == Approx(0.8413447460685429));  // Phi(1)
  CHECK(at_one(Activation::kSilu) == Approx(0.7310585786300049));
  CHECK(at_one(Activation::kGeluTanh) == Approx(0.8411919906082768));
}

}  // namespace
}  // namespace dsv::kernels
