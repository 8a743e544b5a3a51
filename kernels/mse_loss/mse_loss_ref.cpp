#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void mse_loss_forward(const MseLossForward& args, const Stream&) {
  const View pred(args.pred), target(args.target), weight(args.weight), loss(args.loss);
  const std::int64_t B = args.pred.dim(0), N = args.pred.dim(1);
  for (std::int64_t b = 0; b < B; ++b) {
    double sum = 0;
    for (std::int64_t n = 0; n < N; ++n) {
      const double error = pred(b, n) - target(b, n);
      sum += error * error;
    }
    loss(b) = (weight ? static_cast<double>(weight(b)) : 1.0) * sum / static_cast<double>(N);
  }
}

void mse_loss_backward(const MseLossBackward& args, const Stream&) {
  const View pred(args.pred), target(args.target), weight(args.weight), dpred(args.dpred);
  const std::int64_t B = args.pred.dim(0), N = args.pred.dim(1);
  for (std::int64_t b = 0; b < B; ++b) {
    const double w = weight ? static_cast<double>(weight(b)) : 1.0;
    const double factor = static_cast<double>(args.grad_scale) * w * 2 / static_cast<double>(N);
    for (std::int64_t n = 0; n < N; ++n) dpred(b, n) = factor * (pred(b, n) - target(b, n));
  }
}

}  // namespace dsv::kernels::reference
