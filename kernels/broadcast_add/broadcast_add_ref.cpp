#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void broadcast_add_forward(const BroadcastAddForward& args, const Stream&) {
  const View x(args.x), row(args.row), y(args.y);
  const std::int64_t B = args.x.dim(0), N = args.x.dim(1);
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t n = 0; n < N; ++n) y(b, n) = x(b, n) + row(n);
  }
}

void broadcast_add_backward(const BroadcastAddBackward& args, const Stream&) {
  const View dy(args.dy), drow(args.drow);
  const std::int64_t B = args.dy.dim(0), N = args.dy.dim(1);
  for (std::int64_t n = 0; n < N; ++n) {
    double sum = 0;
    for (std::int64_t b = 0; b < B; ++b) sum += dy(b, n);
    drow(n) += sum;
  }
}

}  // namespace dsv::kernels::reference
