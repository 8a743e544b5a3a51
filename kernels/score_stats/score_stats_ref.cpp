#include <cmath>
#include <limits>
#include <vector>

#include "score_stats/score_reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {
namespace {

bool is_selected(const ScoreStats& args, std::int64_t b, std::int64_t h, std::int64_t n,
                 std::int64_t key) {
  const std::int64_t block = block_of(args.block_start, args.first_key + key);
  const std::int64_t H = args.bits.dim(1), G = args.bits.dim(2), W = args.bits.dim(3);
  const std::int64_t row = (b * H + h) * G + args.row_groups.i32()[n];
  return args.bits.u32()[row * W + block / 32] >> block % 32 & 1;
}

}  // namespace

void score_stats(const ScoreStats& args, const Stream&) {
  const std::int64_t B = args.q.dim(0), H = args.q.dim(2), D = args.q.dim(3), Skv = args.k.dim(1);
  const View stats(args.stats);
  std::vector<double> s(static_cast<std::size_t>(Skv));
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      const View q = head_of(args.q, b, h), k = head_of(args.k, b, h);
      const View q_lr = head_of(args.q_lr, b, h), k_lr = head_of(args.k_lr, b, h);
      const std::int64_t r = q_lr ? args.q_lr.dim(3) : 0;
      for (std::int64_t n = 0; n < args.rows.dim(0); ++n) {
        double sums[kNumScoreColumns] = {};
        sums[kMax] = -std::numeric_limits<double>::infinity();
        const std::int64_t i = args.rows.i32()[n], num_keys = i < 0 ? 0 : Skv;
        for (std::int64_t j = 0; j < num_keys; ++j) {
          const double s_j = s[static_cast<std::size_t>(j)] = args.scale * dot_rows(q, i, k, j, D);
          const double t_j = args.lr_scale * dot_rows(q_lr, i, k_lr, j, r);
          sums[kSumS] += s_j;
          sums[kSumT] += t_j;
          sums[kSumSS] += s_j * s_j;
          sums[kSumTT] += t_j * t_j;
          sums[kSumST] += s_j * t_j;
          sums[kMax] = std::fmax(sums[kMax], s_j);
        }
        for (std::int64_t j = 0; j < num_keys; ++j) {
          const double weight = std::exp(s[static_cast<std::size_t>(j)] - sums[kMax]);
          sums[kSumExp] += weight;
          if (args.bits && is_selected(args, b, h, n, j)) sums[kSumExpSelected] += weight;
        }
        for (int c = 0; c < kNumScoreColumns; ++c) stats(b, h, n, c) = sums[c];
      }
    }
  }
}

}  // namespace dsv::kernels::reference
