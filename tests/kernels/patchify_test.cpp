#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("patchify: a 2x4 frame in two 2x2 patches", "[patchify]") {
  std::vector<float> video{0, 1, 2, 3, 4, 5, 6, 7}, tokens(8);
  reference_kernels().patchify(
      {.video = view(video, {1, 1, 1, 2, 4}), .tokens = view(tokens, {1, 2, 4})}, {});
  CHECK(tokens == std::vector<float>{0, 1, 4, 5, 2, 3, 6, 7});
}

}  // namespace
}  // namespace dsv::kernels
