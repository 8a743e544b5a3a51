#include <cmath>

#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

namespace {

constexpr double kSqrt2OverPi = 0.7978845608028653559;
constexpr double kSqrt1Over2 = 0.7071067811865475244;
constexpr double k1OverSqrt2Pi = 0.3989422804014326779;
constexpr double kCubic = 0.044715;

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

// 1 + tanh(u) = 2 sigmoid(2u) and 1 + erf(z) = erfc(-z): neither cancels for large negative x.
double value(Activation kind, double x) {
  switch (kind) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:
      return x * sigmoid(2 * kSqrt2OverPi * (x + kCubic * x * x * x));
    case Activation::kGeluErf:
      return x / 2 * std::erfc(-x * kSqrt1Over2);
    case Activation::kSilu:
      return x * sigmoid(x);
  }
  return x;
}

double slope(Activation kind, double x) {
  switch (kind) {
    case Activation::kNone:
      return 1;
    case Activation::kGeluTanh: {
      const double u = kSqrt2OverPi * (x + kCubic * x * x * x);
      const double du = kSqrt2OverPi * (1 + 3 * kCubic * x * x);
      return sigmoid(2 * u) * (1 + 2 * x * du * sigmoid(-2 * u));
    }
    case Activation::kGeluErf:
      return std::erfc(-x * kSqrt1Over2) / 2 + x * k1OverSqrt2Pi * std::exp(-x * x / 2);
    case Activation::kSilu:
      return sigmoid(x) * (1 + x * sigmoid(-x));
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
