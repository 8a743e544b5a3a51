#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("adamw: the first step moves by lr against the sign of the gradient", "[adamw]") {
  std::vector<float> p{1, 1, 1}, g{0.5f, -2, 7}, m(3), v(3);
  const std::vector<AdamWSegment> segments{{0, 2, 0}};
  reference_kernels().adamw({.param = view(p, {3}),
                             .grad = view(g, {3}),
                             .m = view(m, {3}),
                             .v = view(v, {3}),
                             .segments = segments,
                             .lr = 0.1,
                             .eps = 0},
                            {});
  CHECK(p == std::vector<float>{0.9f, 1.1f, 1});
}

}  // namespace
}  // namespace dsv::kernels
