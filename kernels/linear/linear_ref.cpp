#include <cmath>

#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {
namespace {

double activate(Activation kind, double x) {
  constexpr double kSqrtHalf = 0.70710678118654752440, kSqrtTwoOverPi = 0.79788456080286535588;
  switch (kind) {
    case Activation::kNone: return x;
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(kSqrtTwoOverPi * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf: return 0.5 * x * std::erfc(-x * kSqrtHalf);
    case Activation::kSilu: return x / (1 + std::exp(-x));
  }
  throw_error(ExitCode::kInternal, "[linear] unknown activation {}", static_cast<int>(kind));
}

}  // namespace

void linear_forward(const LinearForward& args, const Stream&) {
  const std::int64_t rows = args.x.dim(0), K = args.x.dim(1), N = args.weight.dim(0);
  const View x(args.x), weight(args.weight), bias(args.bias), y(args.y), pre(args.pre_activation);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t n = 0; n < N; ++n) {
      double sum = bias ? bias(n) : 0.0;
      for (std::int64_t k = 0; k < K; ++k) sum += x(r, k) * weight(n, k);
      if (pre) pre(r, n) = sum;
      y(r, n) = activate(args.activation, sum);
    }
  }
}

void linear_backward(const LinearBackward& args, const Stream&) {
  const std::int64_t rows = args.x.dim(0), K = args.x.dim(1), N = args.weight.dim(0);
  const View x(args.x), weight(args.weight), dy(args.dy);
  const View dx(args.dx), dweight(args.dweight), dbias(args.dbias);
  if (dx) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t k = 0; k < K; ++k) {
        double sum = args.accumulate_dx ? dx(r, k) : 0.0;
        for (std::int64_t n = 0; n < N; ++n) sum += dy(r, n) * weight(n, k);
        dx(r, k) = sum;
      }
    }
  }
  if (dweight) {
    for (std::int64_t n = 0; n < N; ++n) {
      for (std::int64_t k = 0; k < K; ++k) {
        double sum = dweight(n, k);
        for (std::int64_t r = 0; r < rows; ++r) sum += dy(r, n) * x(r, k);
        dweight(n, k) = sum;
      }
    }
  }
  if (dbias) {
    for (std::int64_t n = 0; n < N; ++n) {
      double sum = dbias(n);
      for (std::int64_t r = 0; r < rows; ++r) sum += dy(r, n);
      dbias(n) = sum;
    }
  }
}

}  // namespace dsv::kernels::reference
