#include <cmath>

#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

namespace {

double gelu(double g) {
  return g / 2 * std::erfc(-g * std::sqrt(0.5));
}

double gelu_slope(double g) {
  constexpr double k1OverSqrt2Pi = 0.3989422804014326779;
  return std::erfc(-g * std::sqrt(0.5)) / 2 + g * k1OverSqrt2Pi * std::exp(-g * g / 2);
}

}  // namespace

void geglu_forward(const GegluForward& args, const Stream&) {
  const View x(args.x), y(args.y);
  const std::int64_t rows = args.y.dim(0), F = args.y.dim(1);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t f = 0; f < F; ++f) y(r, f) = x(r, f) * gelu(x(r, F + f));
  }
}

void geglu_backward(const GegluBackward& args, const Stream&) {
  const View x(args.x), dy(args.dy), dx(args.dx);
  const std::int64_t rows = args.dy.dim(0), F = args.dy.dim(1);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t f = 0; f < F; ++f) {
      const double h = x(r, f), g = x(r, F + f);  // read before dx, which may alias x
      dx(r, f) = dy(r, f) * gelu(g);
      dx(r, F + f) = dy(r, f) * h * gelu_slope(g);
    }
  }
}

}  // namespace dsv::kernels::reference
