// What one task of the cpu fillings computes: plain numbers and pointers, the same for every
// instruction set.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "dsv/base/check_math.h"
#include "dsv/kernels/score_stats.h"

namespace dsv::kernels::cpu {

// Keys and sampled rows that are worked on at a time: multiples of 12 and 6, the rows of a register
// tile; keys in runs of kRunKeys, inside which sums are f32.
inline constexpr std::int64_t kKeyBlock = 192;
inline constexpr std::int64_t kRowBlock = 192;
inline constexpr std::int64_t kRunKeys = 64;
inline constexpr std::int64_t kMaxPanel = 32;  // the most columns of a register tile

inline constexpr float kNoScore = -std::numeric_limits<float>::infinity();
inline constexpr float kLog2OfE = 1.44269504f;

// Rows of packed matrices are padded to whole vectors of any kind.
constexpr std::int64_t padded(std::int64_t n) {
  return round_up(n, 16);
}

// The rows of one head of one sample; none for an undefined tensor.
struct ScoreRows {
  const float* data = nullptr;
  std::int64_t stride = 0, dim = 0;

  ScoreRows() = default;
  ScoreRows(const Tensor& t, std::int64_t b, std::int64_t h) {
    if (!t) return;
    stride = t.stride(1), dim = t.dim(3);
    if (t.num_elements() > 0) data = t.f32() + b * t.stride(0) + h * t.stride(2);
  }
  const float* row(std::int64_t s) const { return data + s * stride; }
};

inline void check_score_dims(const Tensor& q, const Tensor& q_lr) {
  const std::int64_t D = q.dim(3), r = q_lr ? q_lr.dim(3) : 0;
  DSV_CHECK(D <= 256 && r <= 256, "[score_stats] expected dims ≤ 256, got {} and {}", D, r);
}

// Tasks along keys: enough to share, however few the heads and rows; by shape alone.
struct KeyChunks {
  std::int64_t keys, count;  // per chunk, a multiple of kKeyBlock; at least one chunk

  KeyChunks(std::int64_t num_keys, std::int64_t tasks_per_chunk) {
    constexpr std::int64_t kTasks = 64, kLeast = 5 * kKeyBlock;
    const std::int64_t wanted = ceil_div(kTasks, std::max<std::int64_t>(1, tasks_per_chunk));
    keys = std::max(kLeast, round_up(ceil_div(num_keys, wanted), kKeyBlock));
    count = std::max<std::int64_t>(1, ceil_div(num_keys, keys));
  }
};

// --- score_stats
// ----------------------------------------------------------------------------------

// Bits of one head, and where a key lies in them.
struct SelectedBlocks {
  const std::uint32_t* bits = nullptr;  // null: none
  std::int64_t words = 0;
  const std::int32_t* block_start = nullptr;  // null: single keys
  std::int64_t num_blocks = 0, first_key = 0;
};

// Statistics of up to kRowBlock rows over one chunk of keys.
struct ScoreStatsTask {
  ScoreRows q, k, q_lr, k_lr;
  const std::int32_t *rows, *groups;  // of the task's first row; groups null without bits
  std::int64_t num_rows, first_key, num_keys;
  float scale, lr_scale;
  SelectedBlocks selected;
  double* stats;  // of the first row
  std::int64_t stats_stride;
  float* scratch;
};
constexpr std::int64_t score_stats_scratch_floats(std::int64_t D, std::int64_t r) {
  return round_up(kRowBlock * (D + r + 2 * kNumScoreColumns) + kMaxPanel * (padded(D) + padded(r)) +
                      kKeyBlock * (padded(D) + padded(r) + 2 * kMaxPanel) + 256,
                  16);
}

// --- attention_profile
// ----------------------------------------------------------------------------

// A few whole groups of rows against all keys.
struct AttentionProfileTask {
  ScoreRows q, k;
  const std::int32_t* rows;  // of the task's first row
  const double* stats;
  std::int64_t num_groups, group_rows, num_blocks;
  const std::int32_t* block_start;  // null: single keys
  float scale;
  float* block_mass;        // (num_groups, num_blocks)
  std::int32_t* bin_count;  // (num_groups * group_rows, kNumProfileBins)
  float* bin_mass;
  float* scratch;
};
constexpr std::int64_t profile_scratch_floats(std::int64_t D, std::int64_t num_groups,
                                              std::int64_t num_rows) {
  return round_up(round_up(num_rows, kMaxPanel) * D + kMaxPanel * padded(D) +
                      kKeyBlock * (padded(D) + 2 * kMaxPanel + 2 * num_groups) +
                      2 * num_rows * kNumProfileBins + 256,
                  16);
}

// --- predictor_backward
// ---------------------------------------------------------------------------

// What a key or a sampled row is in the gradient's two products (README.md): x (D + r + 1) and its
// low-rank vector p (r). A key's x is (k, k_lr, 1), a row's (a q, b q_lr, c) with its coefficients.
struct FactorRows {
  ScoreRows main, low_rank;
  const std::int32_t* rows = nullptr;   // null: all, in order
  const float* coefficients = nullptr;  // (num_rows, 3) as rows come; null: 1

  std::int64_t width() const { return main.dim + low_rank.dim + 1; }
};
// Rows of a matrix sum_i x_i p_i^T in memory: whole register tiles of any kind.
constexpr std::int64_t factor_rows(std::int64_t D, std::int64_t r) {
  return round_up(D + r + 1, 12);
}

// Of up to kRowBlock rows or keys at a time from `first` on: adds x p^T to `products` (null: not
// wanted) and writes x^T `matrix` to `out` (null: not wanted).
struct FactorTask {
  FactorRows from;
  std::int64_t first, count;
  double* products;     // (factor_rows, padded(r))
  const float* matrix;  // (factor_rows, padded(r))
  float* out;           // of row `first`
  std::int64_t out_stride;
  float* scratch;
};
constexpr std::int64_t factor_scratch_floats(std::int64_t D, std::int64_t r) {
  return round_up(
      kRowBlock * (padded(D + r + 1 + 12) + 2 * padded(r)) + factor_rows(D, r) * padded(r) + 64,
      16);
}

}  // namespace dsv::kernels::cpu
