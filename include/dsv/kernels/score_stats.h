// Looks at a sample of rows of the attention matrix: how well low-rank scores follow the true ones,
// how much mass a selection covers, where the mass lies. Rows are sampled, keys never. Source: DSV
// (arXiv 2502.07590) §5.1 (predictor loss), §5.2 (profiler); mergeable statistics are ours, so that
// keys may be spread over ranks.
#pragma once

#include <cmath>

#include "dsv/kernels/sparse_attention.h"

namespace dsv::kernels {

// Columns of ScoreStats::stats. Merging two key ranges adds every column but kMax and the two sums
// of exponentials, which are first brought to the larger maximum.
enum ScoreColumn {
  kSumS,            // sum_j s_j, s_j = scale * <q_i, k_j>
  kSumT,            // sum_j t_j, t_j = lr_scale * <q_lr_i, k_lr_j>
  kSumSS,           // sum_j s_j^2
  kSumTT,           // sum_j t_j^2
  kSumST,           // sum_j s_j t_j
  kMax,             // max_j s_j
  kSumExp,          // sum_j exp(s_j - max)
  kSumExpSelected,  // the same over keys that the row's group selects; 0 where bits is undefined
  kNumScoreColumns
};

// That rule: `into` and `other` are rows of statistics over different keys; `into` becomes those
// over both. A range without keys has sums of 0 and a maximum of -inf. For host and device code.
constexpr void merge_score_stats(double* into, const double* other) {
  for (int c = kSumS; c <= kSumST; ++c) into[c] += other[c];
  const double old = into[kMax], max = old > other[kMax] ? old : other[kMax];
  const double keep = old == max ? 1 : std::exp(old - max);
  const double add = other[kMax] == max ? 1 : std::exp(other[kMax] - max);
  into[kMax] = max;
  for (int c = kSumExp; c <= kSumExpSelected; ++c) into[c] = into[c] * keep + other[c] * add;
}

// Over all keys j of k, for each sample b, head h and sampled row i = rows[n]. Sums are at least
// f32 inside runs of 64 keys and f64 across them, in an order that shapes alone decide. A row of -1
// is absent: its statistics are those of no keys.
struct ScoreStats {
  Tensor q;            // in   (B, Sq, H, D)   f32|bf16, strided as in attention.h
  Tensor k;            // in   (B, Skv, H, D)
  Tensor q_lr;         // in   (B, Sq, H, r)   dtype of q; undefined: the columns of t are 0
  Tensor k_lr;         // in   (B, Skv, H, r)
  Tensor rows;         // in   (R) i32: positions among the queries, or -1
  Tensor row_groups;   // in   (R) i32: the group of each row; undefined without bits
  Tensor bits;         // in   (B, H, G, W) u32 as in sparse_attention.h; undefined: none
  Tensor block_start;  // in   (N + 1) i32; undefined: single keys
  Tensor stats;        // out  (B, H, R, kNumScoreColumns) f64, contiguous
  float scale = 1;
  float lr_scale = 1;
  std::int64_t first_key = 0;  // of k, in the numbering of block_start (or of bits)
};

// The predictor's loss of each sampled row and its gradient by low-rank queries and keys, from
// statistics over all n = num_keys keys. With cos = <s, t> / (|s| |t|), of row-centred vectors where
// `center` is set: loss = (1 - cos) * (0.95 + 0.1 / n), which is 0.95 (1 - cos) + 0.05 times the
// mean squared difference of the normalised rows. A row whose s or t has no length (|s|^2 or |t|^2
// not above 1e-20 n) has cos = 0 and no gradient. Of grad_scale * sum of losses:
// dq_lr[b,n,h,:] = sum_j dt_j lr_scale k_lr_j;  dk_lr[b,j,h,:] = sum_n dt_nj lr_scale q_lr_n.
// Outputs are overwritten, sums in a fixed order.
struct PredictorBackward {
  Tensor q, k, q_lr, k_lr;  // in   as ScoreStats
  Tensor rows;              // in   (R) i32
  Tensor stats;             // in   (B, H, R, kNumScoreColumns) f64
  Tensor loss;              // out  (B, H, R) f32
  Tensor dq_lr;             // out  (B, R, H, r) f32, contiguous
  Tensor dk_lr;             // out  (B, Skv, H, r) f32, contiguous
  float scale = 1;
  float lr_scale = 1;
  float grad_scale = 1;
  bool center = false;
  std::int64_t num_keys = 0;  // that stats counts
};

// Bins of AttentionProfile by p / max p of the row: bin i holds keys with
// max s - s in [i, i + 1) * kProfileBinWidth, the last one all that lie below.
inline constexpr int kNumProfileBins = 96;
inline constexpr float kProfileBinWidth = 0.125f;

// Where the mass of sampled rows lies, p_ij = exp(s_ij - kMax) / kSumExp by `stats`. Rows come as Gs
// groups of R / Gs; a row of -1 is absent. block_mass[b,h,g,n] = mean over the group's present rows
// of the sum of p over block n; 0 for a group without rows. Absent rows have bins of 0.
struct AttentionProfile {
  Tensor q, k;         // in   as ScoreStats
  Tensor rows;         // in   (R) i32, R a multiple of Gs
  Tensor stats;        // in   (B, H, R, kNumScoreColumns) f64; read at present rows only
  Tensor block_start;  // in   (N + 1) i32; undefined: single keys
  Tensor block_mass;   // out  (B, H, Gs, N) f32, contiguous
  Tensor bin_count;    // out  (B, H, R, kNumProfileBins) i32
  Tensor bin_mass;     // out  (B, H, R, kNumProfileBins) f32
  float scale = 1;
};

}  // namespace dsv::kernels
