#include <cmath>

#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void rms_norm_forward(const RmsNormForward& args, const Stream&) {
  const View x(args.x), weight(args.weight), y(args.y), rstd(args.rstd);
  const std::int64_t rows = args.x.dim(0), C = args.x.dim(1);
  for (std::int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (std::int64_t c = 0; c < C; ++c) sum += x(r, c) * x(r, c);
    const double scale =
        1 / std::sqrt(sum / static_cast<double>(C) + static_cast<double>(args.eps));
    rstd(r) = scale;
    for (std::int64_t c = 0; c < C; ++c) y(r, c) = x(r, c) * scale * weight(c);
  }
}

void rms_norm_backward(const RmsNormBackward& args, const Stream&) {
  const View x(args.x), weight(args.weight), rstd(args.rstd), dy(args.dy), dx(args.dx),
      dweight(args.dweight);
  const std::int64_t rows = args.x.dim(0), C = args.x.dim(1);

  // The sum over rows comes first: dx may overwrite dy.
  for (std::int64_t c = 0; dweight && c < C; ++c) {
    double sum = 0;
    for (std::int64_t r = 0; r < rows; ++r) sum += dy(r, c) * x(r, c) * rstd(r);
    dweight(c) += sum;
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    double mean_ax = 0;
    for (std::int64_t c = 0; c < C; ++c) {
      mean_ax += dy(r, c) * weight(c) * x(r, c) * rstd(r) / static_cast<double>(C);
    }
    for (std::int64_t c = 0; c < C; ++c) {
      dx(r, c) = rstd(r) * (dy(r, c) * weight(c) - x(r, c) * rstd(r) * mean_ax);
    }
  }
}

}  // namespace dsv::kernels::reference
