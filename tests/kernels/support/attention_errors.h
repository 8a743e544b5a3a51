// How far attention may be from the f64 reference: dense, and of selected pairs.
#pragma once

#include "kernels/support/checks.h"

namespace dsv::test {

struct AttentionInputs {
  Tensor q, k, v, d_o, key_bias;
  float scale = 1;

  AttentionInputs to_f64() const {
    AttentionInputs out = *this;
    for (Tensor* t : {&out.q, &out.k, &out.v, &out.d_o, &out.key_bias}) {
      *t = converted(*t, DType::kF64);
    }
    return out;
  }
};

struct AttentionResults {
  Tensor o, lse, dq, dk, dv;
};

// What the rounding errors of each result are a share of, row by row: the result's sum with every
// product and difference taken by magnitude (o: sum p |v|; ds: p (|dp| + |delta|); …). Softmax
// turns an error of a logit into a relative error of p, so the share is eps * (1 + largest
// |logit|).
struct AttentionSizes {
  Tensor o, dq, dk, dv;
  double max_logit = 0;
};

template <typename Attends>
AttentionSizes sizes_of(const AttentionInputs& tested, const AttentionResults& r,
                        const Attends& attends) {
  const AttentionInputs data = tested.to_f64();
  const std::int64_t B = data.q.dim(0), Sq = data.q.dim(1), H = data.q.dim(2), D = data.q.dim(3);
  const std::int64_t Skv = data.k.dim(1);
  AttentionSizes sizes{full(data.q.shape(), 0, DType::kF64), full(data.q.shape(), 0, DType::kF64),
                       full(data.k.shape(), 0, DType::kF64), full(data.k.shape(), 0, DType::kF64)};
  const auto at = [&](const Tensor& t, std::int64_t b, std::int64_t s, std::int64_t h) {
    return t.f64() + ((b * t.dim(1) + s) * H + h) * D;
  };
  const double scale = static_cast<double>(data.scale);
  std::vector<double> p(static_cast<std::size_t>(Skv)), dp(static_cast<std::size_t>(Skv));
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      for (std::int64_t i = 0; i < Sq; ++i) {
        const double lse = r.lse.f64()[(b * H + h) * Sq + i];
        if (lse == -std::numeric_limits<double>::infinity()) continue;
        const double *q = at(data.q, b, i, h), *d_o = at(data.d_o, b, i, h);
        const double* o = at(r.o, b, i, h);
        double* const o_size = at(sizes.o, b, i, h);
        for (std::int64_t j = 0; j < Skv; ++j) {
          if (!attends(b, h, i, j)) continue;
          const auto key = static_cast<std::size_t>(j);
          const double *k = at(data.k, b, j, h), *v = at(data.v, b, j, h);
          double s = 0;
          dp[key] = 0;
          for (std::int64_t c = 0; c < D; ++c) {
            s += scale * q[c] * k[c];
            dp[key] += std::fabs(d_o[c] * v[c]);
          }
          if (data.key_bias) s += data.key_bias.f64()[b * Skv + j];
          if (std::isfinite(s)) sizes.max_logit = std::max(sizes.max_logit, std::fabs(s));
          // f32 ends at 2^-126; weights that small may become 0.
          p[key] = std::exp(s - lse) + 0x1p-100;
          for (std::int64_t c = 0; c < D; ++c) o_size[c] += p[key] * std::fabs(v[c]);
        }
        // The o that a backward gets is rounded to its dtype. What comes on top of that, the errors
        // of the sum, is a share of o_size: far more than |o| where the sum cancels.
        double delta = 0;
        for (std::int64_t c = 0; c < D; ++c) {
          delta +=
              std::fabs(d_o[c]) * (tested.q.dtype() == DType::kBF16 ? o_size[c] : std::fabs(o[c]));
        }
        for (std::int64_t j = 0; j < Skv; ++j) {
          if (!attends(b, h, i, j)) continue;
          const auto key = static_cast<std::size_t>(j);
          const double* k = at(data.k, b, j, h);
          const double ds = p[key] * (dp[key] + delta);
          for (std::int64_t c = 0; c < D; ++c) {
            at(sizes.dq, b, i, h)[c] += scale * ds * std::fabs(k[c]);
            at(sizes.dk, b, j, h)[c] += scale * ds * std::fabs(q[c]);
            at(sizes.dv, b, j, h)[c] += p[key] * std::fabs(d_o[c]);
          }
        }
      }
    }
  }
  return sizes;
}

// max over rows of max |got - want| / max size, in units of `eps`.
inline double error_units(const Tensor& got, const Tensor& want, const Tensor& size, double eps) {
  const std::vector<double> g = values(got), w = values(want), m = values(size);
  const auto D = static_cast<std::size_t>(got.dim(-1));
  double worst = 0;
  for (std::size_t row = 0; row < g.size(); row += D) {
    double error = 0, scale = 0;
    for (std::size_t e = row; e < row + D; ++e) {
      const double distance = detail::distance(g[e], w[e]);
      if (std::isnan(distance)) return std::numeric_limits<double>::infinity();
      error = std::max(error, distance);
      scale = std::max(scale, m[e]);
    }
    worst = std::max(worst, detail::relative(error, scale * eps));
  }
  return worst;
}

// How far from `want` results of a dtype may be: `units` times `eps` of the sizes above; lse, which
// is f32 whatever the dtype, by `lse`.
struct AttentionTolerance {
  double units, eps, lse;
};

inline AttentionTolerance tolerance_of(const AttentionInputs& data, const AttentionSizes& sizes) {
  if (data.q.dtype() == DType::kF32) {
    const double eps = kEps * (1 + sizes.max_logit);
    return {.units = 8, .eps = eps, .lse = 8 * eps};
  }
  // Inputs are the same bf16 numbers on both sides, products of two are exact in f32. Roundings to
  // bf16, of up to 2^-8 each: the weights p (of o and dv), ds (of dq and dk), the results; and o,
  // whose two reach dq and dk through delta. That makes two for o and dv. For dq and dk it makes
  // four, but of very many independent ones, which come nowhere near half of their sum.
  // Scores are f32 sums on tensor cores, which cut off rather than round, once per 16 columns: a
  // share of the logit that grows with D, and that exp turns into a relative error of p. For logits
  // of a few units it is next to nothing.
  const double D = static_cast<double>(data.q.dim(3));
  const double score = kEps * (8 + D / 16) * (1 + sizes.max_logit);
  return {.units = 2, .eps = 0x1p-8 + score, .lse = 4 * score};
}

inline void check_attention(const AttentionInputs& data, const AttentionResults& want,
                            const AttentionSizes& sizes, const std::vector<Output>& got) {
  const AttentionTolerance most = tolerance_of(data, sizes);
  CHECK(error_units(got[0], want.o, sizes.o, most.eps) <= most.units);
  CHECK(max_distance(got[1], want.lse) <= most.lse);
  CHECK(error_units(got[2], want.dq, sizes.dq, most.eps) <= most.units);
  CHECK(error_units(got[3], want.dk, sizes.dk, most.eps) <= most.units);
  CHECK(error_units(got[4], want.dv, sizes.dv, most.eps) <= most.units);
}

// f32 on every backend, bf16 on the GPU.
template <typename Fn>
void for_each_backend_of(DType dtype, const Fn& fn) {
  dtype == DType::kF32 ? for_each_backend(fn) : on_gpu(fn);
}

}  // namespace dsv::test
