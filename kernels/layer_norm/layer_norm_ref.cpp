#include <cmath>

#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

namespace {

double row_mean(const View& x, std::int64_t b, std::int64_t s, std::int64_t C) {
  double sum = 0;
  for (std::int64_t c = 0; c < C; ++c) sum += x(b, s, c);
  return sum / static_cast<double>(C);
}

double row_variance(const View& x, std::int64_t b, std::int64_t s, std::int64_t C, double mean) {
  double sum = 0;
  for (std::int64_t c = 0; c < C; ++c) sum += (x(b, s, c) - mean) * (x(b, s, c) - mean);
  return sum / static_cast<double>(C);
}

}  // namespace

void layer_norm_forward(const LayerNormForward& args, const Stream&) {
  const View x(args.x), y(args.y), weight(args.weight), bias(args.bias), scale(args.scale),
      shift(args.shift), mean(args.mean), rstd(args.rstd);
  const std::int64_t B = args.x.dim(0), S = args.x.dim(1), C = args.x.dim(2);
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t s = 0; s < S; ++s) {
      const double m = row_mean(x, b, s, C);
      const double r = 1 / std::sqrt(row_variance(x, b, s, C, m) + static_cast<double>(args.eps));
      mean(b, s) = m;
      rstd(b, s) = r;
      for (std::int64_t c = 0; c < C; ++c) {
        double n = (x(b, s, c) - m) * r;
        if (weight) n = n * weight(c) + bias(c);
        y(b, s, c) = scale ? n * (1 + scale(b, c)) + shift(b, c) : n;
      }
    }
  }
}

void layer_norm_backward(const LayerNormBackward& args, const Stream&) {
  const View x(args.x), weight(args.weight), bias(args.bias), scale(args.scale), mean(args.mean),
      rstd(args.rstd), dy(args.dy), dx(args.dx), dweight(args.dweight), dbias(args.dbias),
      dscale(args.dscale), dshift(args.dshift);
  const std::int64_t B = args.x.dim(0), S = args.x.dim(1), C = args.x.dim(2);
  const auto xhat = [&](auto b, auto s, auto c) { return (x(b, s, c) - mean(b, s)) * rstd(b, s); };
  const auto g = [&](auto b, auto s, auto c) {
    return scale ? dy(b, s, c) * (1 + scale(b, c)) : static_cast<double>(dy(b, s, c));
  };
  const auto a = [&](auto b, auto s, auto c) {
    return weight ? g(b, s, c) * weight(c) : g(b, s, c);
  };

  // The sums over rows come first: dx may overwrite dy.
  for (std::int64_t c = 0; c < C; ++c) {
    double sum_weight = 0, sum_bias = 0;
    for (std::int64_t b = 0; b < B; ++b) {
      double sum_scale = 0, sum_shift = 0;
      for (std::int64_t s = 0; s < S; ++s) {
        const double n = weight ? xhat(b, s, c) * weight(c) + bias(c) : xhat(b, s, c);
        sum_scale += dy(b, s, c) * n;
        sum_shift += dy(b, s, c);
        sum_weight += g(b, s, c) * xhat(b, s, c);
        sum_bias += g(b, s, c);
      }
      if (dscale) dscale(b, c) = sum_scale;
      if (dshift) dshift(b, c) = sum_shift;
    }
    if (dweight) dweight(c) += sum_weight;
    if (dbias) dbias(c) += sum_bias;
  }

  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t s = 0; s < S; ++s) {
      double mean_a = 0, mean_ax = 0;
      for (std::int64_t c = 0; c < C; ++c) {
        mean_a += a(b, s, c) / static_cast<double>(C);
        mean_ax += a(b, s, c) * xhat(b, s, c) / static_cast<double>(C);
      }
      for (std::int64_t c = 0; c < C; ++c) {
        const double d = rstd(b, s) * (a(b, s, c) - mean_a - xhat(b, s, c) * mean_ax);
        dx(b, s, c) = args.accumulate_dx ? dx(b, s, c) + d : d;
      }
    }
  }
}

}  // namespace dsv::kernels::reference
