#include <vector>

#include "score_stats/predictor_loss.h"
#include "score_stats/score_reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void predictor_backward(const PredictorBackward& args, const Stream&) {
  const std::int64_t B = args.q.dim(0), H = args.q.dim(2), D = args.q.dim(3);
  const std::int64_t Skv = args.k.dim(1), R = args.rows.dim(0), r = args.q_lr.dim(3);
  const View loss(args.loss), dq_lr(args.dq_lr), dk_lr(args.dk_lr), stats(args.stats);
  std::vector<double> dq, dk;
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      const View q = head_of(args.q, b, h), k = head_of(args.k, b, h);
      const View q_lr = head_of(args.q_lr, b, h), k_lr = head_of(args.k_lr, b, h);
      dk.assign(static_cast<std::size_t>(Skv * r), 0);
      for (std::int64_t n = 0; n < R; ++n) {
        double sums[kNumScoreColumns];
        for (int c = 0; c < kNumScoreColumns; ++c) sums[c] = stats(b, h, n, c);
        const PredictorLoss row =
            predictor_loss(sums, static_cast<double>(args.num_keys), args.center);
        loss(b, h, n) = row.loss;
        dq.assign(static_cast<std::size_t>(r), 0);
        const std::int64_t i = args.rows.i32()[n];
        for (std::int64_t j = 0; j < Skv; ++j) {
          const double s = args.scale * dot_rows(q, i, k, j, D);
          const double t = args.lr_scale * dot_rows(q_lr, i, k_lr, j, r);
          const double dt = args.grad_scale * (row.a * s + row.b * t + row.c);
          for (std::int64_t c = 0; c < r; ++c) {
            dq[static_cast<std::size_t>(c)] += dt * args.lr_scale * k_lr(j, c);
            dk[static_cast<std::size_t>(j * r + c)] += dt * args.lr_scale * q_lr(i, c);
          }
        }
        for (std::int64_t c = 0; c < r; ++c) dq_lr(b, n, h, c) = dq[static_cast<std::size_t>(c)];
      }
      for (std::int64_t j = 0; j < Skv; ++j) {
        for (std::int64_t c = 0; c < r; ++c) {
          dk_lr(b, j, h, c) = dk[static_cast<std::size_t>(j * r + c)];
        }
      }
    }
  }
}

}  // namespace dsv::kernels::reference
