#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("flow_mix: by hand", "[flow_mix]") {
  std::vector<float> x0{4}, noise{8}, sigma{0.25}, x_t(1), target(1);
  reference_kernels().flow_mix({.x0 = view(x0, {1, 1}),
                                .noise = view(noise, {1, 1}),
                                .sigma = view(sigma, {1}),
                                .x_t = view(x_t, {1, 1}),
                                .target = view(target, {1, 1}),
                                .target_sign = -1},
                               {});
  CHECK(x_t[0] == 5);
  CHECK(target[0] == -4);
}

}  // namespace
}  // namespace dsv::kernels
