#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("rms_norm: two channels by hand", "[rms_norm]") {
  std::vector<float> x{1, 7}, weight{5, 10}, y(2), rstd(1);  // mean of squares: 25
  reference_kernels().rms_norm_forward({.x = view(x, {1, 2}),
                                        .weight = view(weight, {2}),
                                        .y = view(y, {1, 2}),
                                        .rstd = view(rstd, {1}),
                                        .eps = 0},
                                       {});
  CHECK(rstd[0] == 0.2f);
  CHECK(y == std::vector<float>{1, 14});
}

}  // namespace
}  // namespace dsv::kernels
