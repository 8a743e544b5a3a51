// Scores of sampled rows, transposed: a panel of rows, one per lane, against blocks of keys; every
// product is the register tile (cpu/tile-inl.h).
#if defined(DSV_KERNELS_SCORE_PANELS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV_KERNELS_SCORE_PANELS_INL_H
#undef DSV_KERNELS_SCORE_PANELS_INL_H
#else
#define DSV_KERNELS_SCORE_PANELS_INL_H
#endif

#include <algorithm>

#include "cpu/pack-inl.h"
#include "cpu/tile-inl.h"
#include "score_stats/score_tasks.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

static_assert(kTileColumns <= kMaxPanel && kKeyBlock % kTileRows == 0);

// Panels of kTileColumns sampled rows, each (dim, kTileColumns), filled up with 0; absent rows are
// 0 too. `gathered` has room for a panel's rows.
HWY_INLINE void pack_sampled_panels(const ScoreRows& from, const std::int32_t* rows,
                                    std::int64_t num_rows, float* gathered, float* panels) {
  const std::int64_t width = padded(from.dim);
  for (std::int64_t i = 0; i < num_rows; i += kTileColumns) {
    const std::int64_t count = std::min(kTileColumns, num_rows - i);
    for (std::int64_t n = 0; n < count; ++n) {
      const std::int32_t row = rows[i + n];
      float* const to = gathered + n * width;
      if (row >= 0) {
        std::copy_n(from.row(row), from.dim, to);
      } else {
        std::fill_n(to, from.dim, 0.0f);
      }
    }
    pack_transposed(gathered, width, count, from.dim, panels + i * from.dim, kTileColumns,
                    kTileColumns);
  }
}

// Key rows (count, padded(dim)), filled up with 0 to whole tiles.
HWY_INLINE void pack_keys(const ScoreRows& from, std::int64_t first, std::int64_t count,
                          float* to) {
  const std::int64_t width = padded(from.dim), end = round_up(count, kTileRows);
  pack_rows(from.row(first), from.stride, count, from.dim, to, width, width);
  std::fill(to + count * width, to + end * width, 0.0f);
}

static HWY_NOINLINE void score_rows_tile(std::int64_t dim, const float* keys, const float* panel,
                                         float scale, float* scores) {
  const F32 d;
  VecF32 acc[kTileRows][kTileVectors];
  multiply_tile<Operand::kRowMajor>(dim, keys, padded(dim), panel, kTileColumns, acc);
  const VecF32 factor = hn::Set(d, scale);
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) {
      hn::StoreU(hn::Mul(acc[r][v], factor), d, scores + r * kTileColumns + v * kLanes);
    }
  }
}

// scores (num_keys, kTileColumns) of one panel, filled up to whole tiles.
HWY_INLINE void score_panel(std::int64_t dim, const float* keys, std::int64_t num_keys,
                            const float* panel, float scale, float* scores) {
  for (std::int64_t j = 0; j < num_keys; j += kTileRows) {
    score_rows_tile(dim, keys + j * padded(dim), panel, scale, scores + j * kTileColumns);
  }
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
