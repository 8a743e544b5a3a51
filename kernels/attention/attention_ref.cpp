#include <cmath>
#include <limits>
#include <vector>

#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {
namespace {

constexpr double kNegInf = -std::numeric_limits<double>::infinity();

double dot(const View& a, std::int64_t a_row, const View& b, std::int64_t b_row, std::int64_t D) {
  double sum = 0;
  for (std::int64_t d = 0; d < D; ++d) sum += a(a_row, d) * b(b_row, d);
  return sum;
}

// One head of one sample: (B, S, H, D) -> (S, D).
View head(const Tensor& x, std::int64_t b, std::int64_t h) {
  return View(x.select(2, h).select(0, b));
}

}  // namespace

void attention_forward(const AttentionForward& args, const Stream&) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  const std::int64_t Skv = args.k.dim(1);
  const View bias(args.key_bias), lse(args.lse);
  std::vector<double> p(static_cast<std::size_t>(Skv));
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      const View q = head(args.q, b, h), k = head(args.k, b, h), v = head(args.v, b, h);
      const View o = head(args.o, b, h);
      for (std::int64_t i = 0; i < Sq; ++i) {
        double max = kNegInf, sum = 0;
        for (std::int64_t j = 0; j < Skv; ++j) {
          double& s = p[static_cast<std::size_t>(j)];
          s = args.scale * dot(q, i, k, j, D);
          if (bias) s += bias(b, j);
          max = std::fmax(max, s);
        }
        for (double& s : p) sum += s = s == kNegInf ? 0 : std::exp(s - max);
        for (std::int64_t d = 0; d < D; ++d) {
          double out = 0;
          for (std::int64_t j = 0; j < Skv; ++j) out += p[static_cast<std::size_t>(j)] * v(j, d);
          o(i, d) = sum > 0 ? out / sum : 0;
        }
        lse(b, h, i) = sum > 0 ? max + std::log(sum) : kNegInf;
      }
    }
  }
}

void attention_backward(const AttentionBackward& args, const Stream&) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  const std::int64_t Skv = args.k.dim(1);
  const View bias(args.key_bias), lse(args.lse), delta(args.delta);
  std::vector<double> sum_dq, sum_dk, sum_dv;
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      const View q = head(args.q, b, h), k = head(args.k, b, h), v = head(args.v, b, h);
      const View o = head(args.o, b, h), d_o = head(args.d_o, b, h);
      const View dq = head(args.dq, b, h), dk = head(args.dk, b, h), dv = head(args.dv, b, h);
      sum_dq.assign(static_cast<std::size_t>(Sq * D), 0);
      sum_dk.assign(static_cast<std::size_t>(Skv * D), 0);
      sum_dv.assign(static_cast<std::size_t>(Skv * D), 0);
      for (std::int64_t i = 0; i < Sq; ++i) {
        delta(b, h, i) = dot(o, i, d_o, i, D);
        if (lse(b, h, i) == kNegInf) continue;
        for (std::int64_t j = 0; j < Skv; ++j) {
          double s = args.scale * dot(q, i, k, j, D);
          if (bias) s += bias(b, j);
          const double p = std::exp(s - lse(b, h, i));
          const double ds = p * (dot(d_o, i, v, j, D) - delta(b, h, i));
          for (std::int64_t d = 0; d < D; ++d) {
            sum_dq[static_cast<std::size_t>(i * D + d)] += args.scale * ds * k(j, d);
            sum_dk[static_cast<std::size_t>(j * D + d)] += args.scale * ds * q(i, d);
            sum_dv[static_cast<std::size_t>(j * D + d)] += p * d_o(i, d);
          }
        }
      }
      for (std::int64_t i = 0; i < Sq; ++i) {
        for (std::int64_t d = 0; d < D; ++d) dq(i, d) = sum_dq[static_cast<std::size_t>(i * D + d)];
      }
      for (std::int64_t j = 0; j < Skv; ++j) {
        for (std::int64_t d = 0; d < D; ++d) {
          dk(j, d) = sum_dk[static_cast<std::size_t>(j * D + d)];
          dv(j, d) = sum_dv[static_cast<std::size_t>(j * D + d)];
        }
      }
    }
  }
}

}  // namespace dsv::kernels::reference
