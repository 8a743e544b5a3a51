#include <cmath>

#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

namespace {

constexpr double kSqrt2OverPi = 0.7978845608028653559;
constexpr double kSqrt1Over2 = 0.7071067811865475244;
constexpr double k1OverSqrt2Pi = 0.3989422804014326779;
constexpr double kCubic = 0.044715;

double value(Activation kind, double x) {
  switch (kind) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:
      return x / 2 * (1 + std::tanh(kSqrt2OverPi * (x + kCubic * x * x * x)));
    // 1 + erf(z) = erfc(-z), which does not cancel for large negative x.
    case Activation::kGeluErf:
      return x / 2 * std::erfc(-x * kSqrt1Over2);
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
  }
  return x;
}

double slope(Activation kind, double x) {
  switch (kind) {
    case Activation::kNone:
      return 1;
    case Activation::kGeluTanh: {
      const double t = std::tanh(kSqrt2OverPi * (x + kCubic * x * x * x));
      return (1 + t) / 2 + x / 2 * (1 - t * t) * kSqrt2OverPi * (1 + 3 * kCubic * x * x);
    }
    case Activation::kGeluErf:
      return std::erfc(-x * kSqrt1Over2) / 2 + x * k1OverSqrt2Pi * std::exp(-x * x / 2);
    case Activation::kSilu: {
      const double s = 1 / (1 + std::exp(-x));
      return s * (1 + x * (1 - s));
    }
  }
  return 1;
}

}  // namespace

void activation_forward(const ActivationForward& args, const Stream&) {
  const View x = flat(args.x), y = flat(args.y);
  for (std::int64_t e = 0; e < args.x.num_elements(); ++e) y(e) = value(args.kind, x(e));
}

void activation_backward(const ActivationBackward& args, const Stream&) {
  const View x = flat(args.x), dy = flat(args.dy), dx = flat(args.dx);
  for (std::int64_t e = 0; e < args.x.num_elements(); ++e) dx(e) = dy(e) * slope(args.kind, x(e));
}

}  // namespace dsv::kernels::reference
