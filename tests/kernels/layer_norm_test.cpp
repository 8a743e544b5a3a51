#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("layer_norm: two channels by hand", "[layer_norm]") {
  std::vector<float> x{1, 3}, y(2), mean(1), rstd(1), scale{1, 0}, shift{0, 5};
  reference_kernels().layer_norm_forward({.x = view(x, {1, 1, 2}),
                                          .scale = view(scale, {1, 2}),
                                          .shift = view(shift, {1, 2}),
                                          .y = view(y, {1, 1, 2}),
                                          .mean = view(mean, {1, 1}),
                                          .rstd = view(rstd, {1, 1}),
                                          .eps = 0},
                                         {});
  CHECK(mean[0] == 2);
  CHECK(rstd[0] == 1);
  CHECK(y == std::vector<float>{-2, 6});
}

}  // namespace
}  // namespace dsv::kernels
