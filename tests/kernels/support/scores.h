// Sampled rows of scores for the tests of score_stats: inputs in several layouts, selections, and
// the scores in f64 with what their rounding errors are a share of.
#pragma once

#include <vector>

#include "dsv/kernels/score_stats.h"
#include "kernels/support/checks.h"

namespace dsv::test {

// kFused: q and k are columns of (B, S, 3, H, D), q_lr and k_lr of (B, S, 2, H, r); Sq = Skv.
enum class ScoreLayout { kContiguous, kFused, kPadded };

struct ScoreCase {
  std::int64_t B, Sq, Skv, H, D, r, R;
  ScoreLayout layout = ScoreLayout::kContiguous;
  double qk_scale = 1, lr_size = 1;
};

inline Tensor ints(const std::vector<std::int32_t>& from) {
  Tensor out = empty({static_cast<std::int64_t>(from.size())}, DType::kI32);
  std::copy(from.begin(), from.end(), out.i32());
  return out;
}

struct ScoreData {
  Tensor q, k, q_lr, k_lr, rows;
  float scale, lr_scale;

  explicit ScoreData(const ScoreCase& c, DType dtype = DType::kF32)
      : scale(0.9f / std::sqrt(static_cast<float>(c.D))),
        lr_scale(1.1f / std::sqrt(static_cast<float>(std::max<std::int64_t>(1, c.r)))) {
    const Shape pad = c.layout == ScoreLayout::kPadded ? Shape{0, 1, 2, 3} : Shape{0, 0, 0, 0};
    q = random({c.B, c.Sq, c.H, c.D}, 1, c.qk_scale, dtype, pad);
    k = random({c.B, c.Skv, c.H, c.D}, 2, c.qk_scale, dtype, pad);
    if (c.r > 0) {
      q_lr = random({c.B, c.Sq, c.H, c.r}, 3, c.lr_size, dtype, pad);
      k_lr = random({c.B, c.Skv, c.H, c.r}, 4, c.lr_size, dtype, pad);
    }
    if (c.layout == ScoreLayout::kFused) {
      const auto columns = [&](std::int64_t dim, int parts, std::uint64_t id, double size,
                               Tensor* first, Tensor* second) {
        const std::int64_t C = c.H * dim;
        const Tensor all = random({c.B, c.Sq, parts * C}, id, size, dtype);
        *first = all.slice(2, 0, C).as_heads(c.H);
        *second = all.slice(2, C, 2 * C).as_heads(c.H);
      };
      columns(c.D, 3, 1, c.qk_scale, &q, &k);
      if (c.r > 0) columns(c.r, 2, 2, c.lr_size, &q_lr, &k_lr);
    }
    std::vector<std::int32_t> at;
    for (std::int64_t n = 0; n < c.R; ++n)
      at.push_back(static_cast<std::int32_t>((37 * n + 11) % c.Sq));
    rows = ints(at);
  }
  ScoreData to_f64() const {
    ScoreData out = *this;
    for (Tensor* t : {&out.q, &out.k, &out.q_lr, &out.k_lr}) *t = converted(*t, DType::kF64);
    return out;
  }
};

// f32 on every backend, bf16 on the GPU.
template <typename Fn>
void for_each_score_backend(DType dtype, const Fn& fn) {
  dtype == DType::kF32 ? for_each_backend(fn) : on_gpu(fn);
}

// Ragged blocks, some of them empty, of `num_keys` keys; the number of blocks is a multiple of 4.
inline Tensor ragged_blocks(std::int64_t num_keys) {
  constexpr std::int32_t kSizes[] = {3, 0, 16, 1, 5, 16, 7, 2, 0, 0, 0, 0, 16, 16, 16, 16, 9};
  std::vector<std::int32_t> starts{0};
  for (std::size_t i = 0; starts.back() < num_keys || starts.size() % 4 != 1; ++i) {
    const auto left = static_cast<std::int32_t>(num_keys) - starts.back();
    starts.push_back(starts.back() + std::min(left, kSizes[i % std::size(kSizes)]));
  }
  return ints(starts);
}

// Random bits, about `share` of them set; bits past the last block too.
inline Tensor random_bits(std::int64_t B, std::int64_t H, std::int64_t G, std::int64_t num_blocks,
                          double share) {
  const Tensor out = empty({B, H, G, (num_blocks + 31) / 32}, DType::kU32);
  const std::vector<double> x = values(random({out.num_elements(), 32}, 77));
  for (std::size_t w = 0; w < static_cast<std::size_t>(out.num_elements()); ++w) {
    out.u32()[w] = 0;
    for (std::size_t i = 0; i < 32; ++i) {
      if (0.5 * std::erfc(x[32 * w + i] / std::sqrt(2.0)) < share) out.u32()[w] |= 1u << i;
    }
  }
  return out;
}

// Scores of one row with every key: values, and the same sums with each product by magnitude, of
// which rounding errors are a share.
struct ScoreRow {
  std::vector<double> s, s_size, t, t_size;
};
inline ScoreRow score_row(const ScoreData& f64, std::int64_t b, std::int64_t h, std::int64_t n) {
  ScoreRow out;
  const auto fill = [&](const Tensor& x, const Tensor& y, double scale, std::vector<double>* value,
                        std::vector<double>* size) {
    const std::int64_t num_keys = f64.k.dim(1), H = f64.k.dim(2), D = x ? x.dim(3) : 0;
    const std::int64_t i = f64.rows.i32()[n];
    for (std::int64_t j = 0; j < num_keys; ++j) {
      double sum = 0, magnitude = 0;
      for (std::int64_t d = 0; d < D; ++d) {
        const double product = scale * x.f64()[((b * x.dim(1) + i) * H + h) * D + d] *
                               y.f64()[((b * num_keys + j) * H + h) * D + d];
        sum += product;
        magnitude += std::fabs(product);
      }
      value->push_back(sum);
      size->push_back(magnitude);
    }
  };
  fill(f64.q, f64.k, static_cast<double>(f64.scale), &out.s, &out.s_size);
  fill(f64.q_lr, f64.k_lr, static_cast<double>(f64.lr_scale), &out.t, &out.t_size);
  return out;
}

// Rounding of a score, relative to its size. Tensor cores cut off rather than round, once per 16
// columns.
inline double score_eps(DType dtype, std::int64_t D) {
  return dtype == DType::kF32 ? kEps : kEps * (1 + static_cast<double>(D) / 16);
}

}  // namespace dsv::test
