#include <cmath>
#include <vector>

#include "dsv/kernels/kernel_table.h"
#include "support/catch.h"

namespace dsv::kernels {
namespace {

Tensor view(std::vector<float>& values, const Shape& shape) {
  return Tensor(values.data(), DType::kF32, shape);
}

TEST_CASE("mse_loss: by hand", "[mse_loss]") {
  std::vector<float> pred{1, 5}, target{0, 2}, loss(1), dpred(2);
  reference_kernels().mse_loss_forward(
      {.pred = view(pred, {1, 2}), .target = view(target, {1, 2}), .loss = view(loss, {1})}, {});
  CHECK(loss[0] == 5);
  reference_kernels().mse_loss_backward({.pred = view(pred, {1, 2}),
                                         .target = view(target, {1, 2}),
                                         .dpred = view(dpred, {1, 2}),
                                         .grad_scale = 2},
                                        {});
  CHECK(dpred == std::vector<float>{2, 6});
}

}  // namespace
}  // namespace dsv::kernels
