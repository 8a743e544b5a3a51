// The predictor's loss and its gradient: kernels/score_stats.
#include "kernels/support/scores.h"

namespace dsv::test {
namespace {

using namespace kernels;

struct Options {
  bool center = false;
  float grad_scale = 1;
};

Tensor stats_of(const ScoreData& data) {
  const ScoreData d = data.to_f64();
  const Tensor stats =
      empty({d.q.dim(0), d.q.dim(2), d.rows.dim(0), kNumScoreColumns}, DType::kF64);
  reference_kernels().score_stats({.q = d.q,
                                   .k = d.k,
                                   .q_lr = d.q_lr,
                                   .k_lr = d.k_lr,
                                   .rows = d.rows,
                                   .stats = stats,
                                   .scale = d.scale,
                                   .lr_scale = d.lr_scale},
                                  {});
  return stats;
}

void run(const KernelTable& table, const ScoreData& d, const Tensor& stats, const Options& options,
         std::int64_t num_keys, const Tensor& loss, const Tensor& dq, const Tensor& dk,
         const Stream& stream) {
  table.predictor_backward({.q = d.q,
                            .k = d.k,
                            .q_lr = d.q_lr,
                            .k_lr = d.k_lr,
                            .rows = d.rows,
                            .stats = stats,
                            .loss = loss,
                            .dq_lr = dq,
                            .dk_lr = dk,
                            .scale = d.scale,
                            .lr_scale = d.lr_scale,
                            .grad_scale = options.grad_scale,
                            .center = options.center,
                            .num_keys = num_keys},
                           stream);
}

struct Results {
  Tensor stats, loss, dq, dk;
};

Results reference(const ScoreData& data, const Options& options) {
  const std::int64_t B = data.q.dim(0), H = data.q.dim(2), R = data.rows.dim(0);
  const std::int64_t Skv = data.k.dim(1), r = data.q_lr.dim(3);
  Results out{.stats = stats_of(data),
              .loss = empty({B, H, R}, DType::kF64),
              .dq = empty({B, R, H, r}, DType::kF64),
              .dk = empty({B, Skv, H, r}, DType::kF64)};
  run(reference_kernels(), data.to_f64(), out.stats, options, Skv, out.loss, out.dq, out.dk, {});
  return out;
}

// What rounding errors of the gradients are a share of: their sums with every product by magnitude,
// the scores' own included.
struct Sizes {
  Tensor dq, dk;
};

Sizes sizes_of(const ScoreData& data, const Results& r, const Options& options) {
  const ScoreData d = data.to_f64();
  const std::int64_t H = d.q.dim(2), R = d.rows.dim(0), Skv = d.k.dim(1), rank = d.q_lr.dim(3);
  const std::int64_t Sq = d.q.dim(1);
  Sizes out{full(r.dq.shape(), 0, DType::kF64), full(r.dk.shape(), 0, DType::kF64)};
  for (std::int64_t i = 0; i < r.loss.num_elements(); ++i) {
    const std::int64_t b = i / R / H, h = i / R % H, n = i % R;
    const double* const stats = r.stats.f64() + i * kNumScoreColumns;
    const double N = static_cast<double>(Skv), f = 0.95 + 0.1 / N;
    const double mean_s = options.center ? stats[kSumS] / N : 0;
    const double mean_t = options.center ? stats[kSumT] / N : 0;
    const double ss = stats[kSumSS] - N * mean_s * mean_s, tt = stats[kSumTT] - N * mean_t * mean_t;
    if (ss <= 1e-20 * N || tt <= 1e-20 * N) continue;
    const double a = f / std::sqrt(ss * tt), b_t = f / tt;  // |cos| ≤ 1
    const ScoreRow row = score_row(d, b, h, n);
    const double lr_scale = static_cast<double>(std::fabs(d.lr_scale * options.grad_scale));
    for (std::int64_t j = 0; j < Skv; ++j) {
      const auto at = static_cast<std::size_t>(j);
      const double dt = lr_scale * (a * (row.s_size[at] + std::fabs(mean_s)) +
                                    b_t * (row.t_size[at] + std::fabs(mean_t)));
      for (std::int64_t c = 0; c < rank; ++c) {
        const std::int64_t k_at = ((b * Skv + j) * H + h) * rank + c;
        const std::int64_t q_at = ((b * Sq + d.rows.i32()[n]) * H + h) * rank + c;
        out.dq.f64()[((b * R + n) * H + h) * rank + c] += dt * std::fabs(d.k_lr.f64()[k_at]);
        out.dk.f64()[k_at] += dt * std::fabs(d.q_lr.f64()[q_at]);
      }
    }
  }
  return out;
}

double worst_share(const Tensor& got, const Tensor& want, const Tensor& size) {
  const std::vector<double> g = values(got), w = values(want), m = values(size);
  double worst = 0;
  for (std::size_t e = 0; e < g.size(); ++e) {
    worst = std::max(worst, detail::relative(detail::distance(g[e], w[e]), m[e]));
  }
  return worst;
}

void check_data(const ScoreData& data, const Options& options) {
  const Results want = reference(data, options);
  const Sizes sizes = sizes_of(data, want, options);
  for_each_score_backend(data.q.dtype(), [&] {
    const auto got = same_for_any_threads([&](const Stream& stream) {
      std::vector<Output> out;
      for (const Tensor* t : {&want.loss, &want.dq, &want.dk}) out.emplace_back(t->shape());
      run(tested_kernels(), data, want.stats, options, data.k.dim(1), out[0], out[1], out[2],
          stream);
      return out;
    });
    CHECK(max_distance(got[0], want.loss) <= 2 * kEps);
    // The matrix that the keys' gradients come from is two bf16 numbers on tensor cores.
    const double eps = data.q.dtype() == DType::kF32 ? 4 * kEps : 0x1p-17;
    CHECK(worst_share(got[1], want.dq, sizes.dq) <= 2 * kEps);
    CHECK(worst_share(got[2], want.dk, sizes.dk) <= eps);
  });
}

void check_case(const ScoreCase& c, DType dtype = DType::kF32) {
  for (const Options& options : {Options{}, Options{.center = true, .grad_scale = -3.5f}}) {
    CAPTURE(c.B, c.Sq, c.Skv, c.H, c.D, c.r, c.R, c.qk_scale, c.lr_size, static_cast<int>(c.layout),
            options.center);
    check_data(ScoreData(c, dtype), options);
  }
}

TEST_CASE("predictor_backward: loss of two keys by hand", "[score_stats]") {
  ScoreData d({1, 1, 2, 1, 1, 1, 1});
  d.rows = ints({0});
  d.scale = d.lr_scale = 1;
  d.q.f32()[0] = 1, d.k.f32()[0] = 3, d.k.f32()[1] = 4;           // s = 3, 4
  d.q_lr.f32()[0] = 1, d.k_lr.f32()[0] = 4, d.k_lr.f32()[1] = 3;  // t = 4, 3
  // cos = 24 / 25, centred -1; the factor is 0.95 + 0.05; of normalised rows the mean squared
  // difference is 2 / 50, centred 2.
  const Results plain = reference(d, {}), centred = reference(d, {.center = true});
  CHECK(std::fabs(plain.loss.f64()[0] - (0.95 * 0.04 + 0.05 * 0.04)) <= 1e-15);
  CHECK(std::fabs(centred.loss.f64()[0] - (0.95 * 2 + 0.05 * 2)) <= 1e-15);
}

TEST_CASE("predictor_backward: shapes that fit no tile, views of any stride", "[score_stats]") {
  for (const ScoreCase& c : std::vector<ScoreCase>{
           {1, 3, 2, 1, 1, 1, 1},
           {2, 7, 3, 3, 5, 2, 3},
           {1, 9, 130, 2, 16, 16, 4, ScoreLayout::kPadded},
           {2, 150, 150, 2, 24, 8, 33, ScoreLayout::kFused},
           {1, 400, 70, 1, 8, 17, 197},
           {1, 5, 1100, 1, 12, 3, 2},
           {1, 6, 100, 1, 250, 40, 6, ScoreLayout::kPadded},
           {1, 6, 65, 1, 256, 256, 3},
       }) {
    check_case(c);
  }
}

TEST_CASE("predictor_backward: scores of any scale", "[score_stats]") {
  for (const double scale : {1e-3, 1.0, 8.0, 32.0, 128.0}) {
    check_case({1, 70, 300, 1, 64, 16, 20, ScoreLayout::kContiguous, scale, 1});
    check_case({1, 30, 200, 1, 32, 16, 20, ScoreLayout::kContiguous, 1, scale});
  }
}

TEST_CASE("predictor_backward: no rows, no keys, no heads", "[score_stats]") {
  check_case({1, 4, 9, 2, 8, 4, 0});
  check_case({0, 4, 9, 2, 8, 4, 3});
  for_each_backend([] {
    const ScoreData d({1, 4, 0, 2, 8, 4, 3});
    const Output loss({1, 2, 3}), dq({1, 3, 2, 4}), dk({1, 0, 2, 4});
    // A rank without keys of its own; the statistics are those of all ranks.
    const ScoreData whole({1, 4, 6, 2, 8, 4, 3});
    run(tested_kernels(), d, stats_of(whole), {}, 6, loss, dq, dk, cpu_stream());
    CHECK(max_distance(loss, reference(whole, {}).loss) <= 2 * kEps);
    CHECK(max_abs(dq) == 0);
  });
}

// Rows of q or q_lr that are 0 have no angle: the loss of cos = 0, and no gradient.
TEST_CASE("predictor_backward: rows without length", "[score_stats]") {
  for (const bool low_rank : {false, true}) {
    for (const bool center : {false, true}) {
      const ScoreCase c{1, 20, 90, 2, 16, 4, 8};
      const ScoreData data(c);
      const Tensor& q = low_rank ? data.q_lr : data.q;
      const std::int64_t i = data.rows.i32()[3];
      for_each_element(q.slice(1, i, i + 1), [&](std::int64_t at, auto, auto) {
        write_element(q.slice(1, i, i + 1), at, 0);
      });
      check_data(data, {.center = center});
      for_each_backend([&] {
        const Output loss({1, 2, 8}), dq({1, 8, 2, 4}), dk({1, 90, 2, 4});
        run(tested_kernels(), data, stats_of(data), {.center = center}, 90, loss, dq, dk,
            cpu_stream());
        CHECK(loss.tensor().f32()[3] == static_cast<float>(0.95 + 0.1 / 90));
        CHECK(max_abs(dq.tensor().slice(1, 3, 4)) == 0);
      });
    }
  }
}

// Two ranks with half of the keys each: the same loss, their own dk, and dq that add up.
TEST_CASE("predictor_backward: keys may be spread over ranks", "[score_stats]") {
  const ScoreCase c{1, 40, 150, 2, 16, 4, 11};
  const ScoreData data(c);
  const Options options{.center = true, .grad_scale = 2};
  const Results want = reference(data, options);
  const Sizes sizes = sizes_of(data, want, options);
  for_each_backend([&] {
    std::vector<double> sum(static_cast<std::size_t>(want.dq.num_elements()), 0);
    for (const auto& [begin, end] : {std::pair<std::int64_t, std::int64_t>{0, 61}, {61, 150}}) {
      ScoreData part = data;
      part.k = data.k.slice(1, begin, end);
      part.k_lr = data.k_lr.slice(1, begin, end);
      const Output loss({1, 2, 11}), dq({1, 11, 2, 4}), dk({1, end - begin, 2, 4});
      run(tested_kernels(), part, want.stats, options, 150, loss, dq, dk, cpu_stream(2));
      CHECK(max_distance(loss, want.loss) <= 2 * kEps);
      CHECK(worst_share(dk, want.dk.slice(1, begin, end), sizes.dk.slice(1, begin, end)) <=
            4 * kEps);
      const std::vector<double> share = values(dq);
      for (std::size_t e = 0; e < sum.size(); ++e) sum[e] += share[e];
    }
    const Tensor dq = empty(want.dq.shape(), DType::kF64);
    std::copy(sum.begin(), sum.end(), dq.f64());
    CHECK(worst_share(dq, want.dq, sizes.dq) <= 4 * kEps);
  });
}

TEST_CASE("predictor_backward: the reference's gradients are those of finite differences",
          "[score_stats]") {
  for (const bool center : {false, true}) {
    for (const float grad_scale : {1.0f, 0.25f}) {
      // Every query is a row, so that all of q_lr has a gradient.
      const ScoreData data = ScoreData({2, 5, 7, 2, 4, 3, 5}).to_f64();
      const Options options{center, grad_scale};
      const Results r = reference(data, options);
      const auto total = [&] {
        const Tensor loss = reference(data, options).loss;
        double sum = 0;
        for (const double x : values(loss)) sum += x;
        return static_cast<double>(grad_scale) * sum;
      };
      const Tensor dq_of_queries = empty(data.q_lr.shape(), DType::kF64);
      for (std::int64_t b = 0; b < 2; ++b) {
        for (std::int64_t n = 0; n < 5; ++n) {
          std::copy_n(r.dq.f64() + (b * 5 + n) * 6, 6,
                      dq_of_queries.f64() + (b * 5 + data.rows.i32()[n]) * 6);
        }
      }
      CHECK(gradient_error(total, data.q_lr, dq_of_queries) <= 1e-8);
      CHECK(gradient_error(total, data.k_lr, r.dk) <= 1e-8);
    }
  }
}

TEST_CASE("predictor_backward: bf16 is refused", "[score_stats]") {
  const Tensor x = full({1, 2, 1, 4}, 1, DType::kBF16), stats = empty({1, 1, 1, 8}, DType::kF64);
  check_refuses_bf16([&] {
    tested_kernels().predictor_backward(
        {.q = x, .k = x, .q_lr = x, .k_lr = x, .rows = ints({0}), .stats = stats, .num_keys = 2},
        cpu_stream());
  });
}

TEST_CASE("predictor_backward: bf16 of any dim, layout, and scale on the GPU",
          "[score_stats][gpu]") {
  DSV_NEEDS_GPU();
  for (const std::int64_t D : {1, 17, 64, 96, 128, 250, 256}) {
    for (const ScoreLayout layout :
         {ScoreLayout::kContiguous, ScoreLayout::kFused, ScoreLayout::kPadded}) {
      check_case({2, 150, 150, 2, D, 16, 70, layout}, DType::kBF16);
    }
  }
  for (const std::int64_t r : {1, 8, 24, 64, 256}) {
    check_case({1, 50, 333, 1, 128, r, 40}, DType::kBF16);
    check_case({1, 50, 70, 1, 256, r, 140}, DType::kBF16);
  }
  for (const double scale : {1.0, 8.0, 32.0, 128.0}) {
    check_case({1, 70, 2500, 1, 64, 16, 20, ScoreLayout::kContiguous, scale}, DType::kBF16);
  }
  check_case({1, 4, 9, 2, 8, 4, 0}, DType::kBF16);
}

}  // namespace
}  // namespace dsv::test
