// Blocking after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (ACM
// TOMS 34, 2008), with one change: a thread packs its own block of B into its L2 cache and one strip
// of A at a time into L1, so that threads share nothing and never wait for each other.
#define HWY_TARGET_INCLUDE "cpu/gemm.cpp"
#include "cpu/targets.h"
#include <hwy/foreach_target.h>

#include <hwy/cache_control.h>

#include <limits>

#include "cpu/gemm.h"
#include "cpu/pack-inl.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/tile-inl.h"
#include "dsv/base/check_math.h"

#ifndef DSV_KERNELS_CPU_GEMM_TYPES
#define DSV_KERNELS_CPU_GEMM_TYPES
namespace dsv::kernels::cpu {

constexpr std::int64_t kGemmDepth = 256;    // of a block: part of the order of summation
constexpr std::int64_t kGemmColumns = 384;  // of a block of B at most: 384 KiB in L2
constexpr std::int64_t kGemmStripFloats = 16 * (kGemmDepth + 16);
constexpr std::int64_t kGemmScratchFloats = kGemmDepth * kGemmColumns + kGemmStripFloats;

// The piece of c that one task computes.
struct GemmPiece {
  std::int64_t row, num_rows, column, num_columns;
};
// The register tile of an instruction set.
struct GemmTileShape {
  std::int64_t rows, columns, lanes;
};

}  // namespace dsv::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// Row r of a strip that was packed row by row.
constexpr std::int64_t kStripStride = kGemmDepth + 16;  // no power of two: rows in different sets

// One register tile of c, of which num_rows x num_columns exist.
template <Operand kA>
HWY_NOINLINE void gemm_tile(std::int64_t depth, const float* strip, const float* panel, float* c,
                            std::int64_t c_stride, bool add, std::int64_t num_rows,
                            std::int64_t num_columns) {
  const F32 d;
  VecF32 acc[kTileRows][kTileVectors];
  multiply_tile<kA>(depth, strip, kA == Operand::kRowMajor ? kStripStride : kTileRows, panel,
                    kTileColumns, acc);
  if (num_rows == kTileRows && num_columns == kTileColumns) {
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) {
        float* to = c + r * c_stride + v * kLanes;
        hn::StoreU(add ? hn::Add(hn::LoadU(d, to), acc[r][v]) : acc[r][v], d, to);
      }
    }
    return;
  }
  HWY_ALIGN float tile[kTileRows][kTileColumns];
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) hn::Store(acc[r][v], d, tile[r] + v * kLanes);
  }
  for (std::int64_t r = 0; r < num_rows; ++r) {
    for (std::int64_t j = 0; j < num_columns; ++j) {
      float& to = c[r * c_stride + j];
      to = add ? to + tile[r][j] : tile[r][j];
    }
  }
}

// Asks for the lines of a block of `num_rows` runs of `length` floats.
HWY_INLINE void prefetch_runs(const float* from, std::int64_t stride, std::int64_t num_rows,
                              std::int64_t length) {
  constexpr std::int64_t kLine = 64 / sizeof(float);
  for (std::int64_t r = 0; r < num_rows; ++r, from += stride) {
    for (std::int64_t i = 0; i < length; i += kLine) hwy::Prefetch(from + i);
    hwy::Prefetch(from + length - 1);
  }
}

// num_rows runs of `columns` <= kWidth floats, side by side in kWidth, filled up with 0.
template <std::int64_t kWidth>
HWY_INLINE void pack_runs(const float* HWY_RESTRICT from, std::int64_t stride,
                          std::int64_t num_rows, std::int64_t columns, float* HWY_RESTRICT to) {
  if (columns < kWidth) {
    pack_rows(from, stride, num_rows, columns, to, kWidth, kWidth);
    return;
  }
  constexpr std::int64_t kStep = kWidth % kLanes == 0 ? kLanes : kWidth % 4 == 0 ? 4 : kWidth % 2 + 2;
  const hn::CappedTag<float, kStep> d;
  for (std::int64_t r = 0; r < num_rows; ++r, from += stride, to += kWidth) {
#pragma GCC unroll 16
    for (std::int64_t i = 0; i < kWidth; i += kStep) hn::StoreU(hn::LoadU(d, from + i), d, to + i);
  }
}

// Where the strip of A for rows [m, m + kTileRows) lies: runs of floats in memory.
struct Runs {
  const float* from;
  std::int64_t stride, num_runs, length;
};
HWY_INLINE Runs strip_runs(const GemmOperand& a, std::int64_t m, std::int64_t rows, std::int64_t k,
                           std::int64_t depth) {
  if (a.transposed) return {a.data + k * a.stride + m, a.stride, depth, rows};
  return {a.data + m * a.stride + k, a.stride, rows, depth};
}

void gemm_piece(const Gemm& g, const GemmPiece& piece, float* scratch) {
  float* const strip = scratch;
  float* const panels = scratch + kGemmStripFloats;
  const std::int64_t num_panels = (piece.num_columns + kTileColumns - 1) / kTileColumns;
  for (std::int64_t k = 0; k == 0 || k < g.K; k += kGemmDepth) {
    const std::int64_t depth = std::min(kGemmDepth, g.K - k);
    const bool add = g.accumulate || k > 0, last = k + depth == g.K;
    for (std::int64_t j = 0; j < piece.num_columns; j += kTileColumns) {
      const std::int64_t columns = std::min(kTileColumns, piece.num_columns - j);
      const std::int64_t n = piece.column + j;
      float* const panel = panels + j * kGemmDepth;
      if (g.b.transposed) {
        pack_transposed(g.b.data + n * g.b.stride + k, g.b.stride, columns, depth, panel,
                        kTileColumns, kTileColumns);
      } else {
        const float* const from = g.b.data + k * g.b.stride + n;
        const std::int64_t next = std::min(kTileColumns, piece.num_columns - j - columns);
        if (next > 0) prefetch_runs(from + columns, g.b.stride, depth, next);
        pack_runs<kTileColumns>(from, g.b.stride, depth, columns, panel);
      }
    }
    for (std::int64_t i = 0; i < piece.num_rows; i += kTileRows) {
      const std::int64_t rows = std::min<std::int64_t>(kTileRows, piece.num_rows - i);
      const std::int64_t m = piece.row + i;
      const Runs runs = strip_runs(g.a, m, rows, k, depth);
      if (g.a.transposed) {
        pack_runs<kTileRows>(runs.from, runs.stride, depth, rows, strip);
      } else {
        pack_rows(runs.from, runs.stride, rows, depth, strip, kStripStride, depth);
        for (std::int64_t r = rows; r < kTileRows; ++r) {
          std::fill_n(strip + r * kStripStride, depth, 0.0f);
        }
      }
      // The next strip is fetched a share at a time while this one is multiplied.
      const std::int64_t next_rows =
          std::min<std::int64_t>(kTileRows, piece.num_rows - i - kTileRows);
      Runs ahead = strip_runs(g.a, m + kTileRows, next_rows, k, depth);
      if (next_rows <= 0) ahead.num_runs = 0;
      std::int64_t run = 0;
      for (std::int64_t p = 0; p < num_panels; ++p) {
        const std::int64_t until = ahead.num_runs * (p + 1) / num_panels;
        prefetch_runs(ahead.from + run * ahead.stride, ahead.stride, until - run, ahead.length);
        run = std::max(run, until);
        const std::int64_t j = p * kTileColumns;
        float* const c = g.c + m * g.c_stride + piece.column + j;
        const std::int64_t columns = std::min(kTileColumns, piece.num_columns - j);
        prefetch_runs(c, g.c_stride, rows, columns);
        const auto tile = g.a.transposed ? &gemm_tile<Operand::kDepthMajor>
                                         : &gemm_tile<Operand::kRowMajor>;
        tile(depth, strip, panels + j * kGemmDepth, c, g.c_stride, add, rows, columns);
      }
      if (last && g.finish) g.finish(m, rows, piece.column, piece.num_columns);
    }
  }
}

GemmTileShape gemm_tile_shape() { return {kTileRows, kTileColumns, kLanes}; }

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {
namespace {

HWY_EXPORT(gemm_piece);
HWY_EXPORT(gemm_tile_shape);

// How c is cut into tasks: num_row_cuts x num_column_cuts pieces of rows x columns.
struct Cut {
  std::int64_t num_row_cuts, num_column_cuts, rows, columns;
};

// The cut that ends first by a model of one task: its multiply-adds, packing, and a little for
// threads of unequal speed. It decides speed only, never results.
Cut cut_into_tasks(const Gemm& g, std::int64_t num_threads, const GemmTileShape& tile) {
  const double pack_a = 0.6, pack_b = g.b.transposed ? 1.0 : 0.6;  // cycles per element
  const double unequal = num_threads > 1 ? 0.05 : 0.0;
  Cut best{};
  double best_cycles = std::numeric_limits<double>::infinity();
  const std::int64_t max_tasks = 8 * num_threads;
  const std::int64_t min_column_cuts = ceil_div(g.N, kGemmColumns);
  for (std::int64_t j = min_column_cuts; j <= std::max(min_column_cuts, max_tasks); ++j) {
    const std::int64_t columns = round_up(ceil_div(g.N, j), tile.columns);
    for (std::int64_t i = 1; i <= std::max<std::int64_t>(1, max_tasks / j); ++i) {
      const std::int64_t rows = round_up(ceil_div(g.M, i), tile.rows);
      const Cut cut{ceil_div(g.M, rows), ceil_div(g.N, columns), rows, columns};
      const auto m = static_cast<double>(rows), n = static_cast<double>(columns);
      const double cycles = m * n / static_cast<double>(tile.lanes) + pack_a * m + pack_b * n;
      const std::int64_t rounds = ceil_div(cut.num_row_cuts * cut.num_column_cuts, num_threads);
      const double total = (static_cast<double>(rounds) + unequal) * cycles;
      if (total < best_cycles) {
        best_cycles = total;
        best = cut;
      }
    }
  }
  return best;
}

}  // namespace

void gemm(const Gemm& args, const Stream& stream) {
  if (args.M == 0 || args.N == 0) return;
  if (args.K == 0 && args.accumulate && !args.finish) return;
  const Cut cut =
      cut_into_tasks(args, stream.num_threads, HWY_DYNAMIC_DISPATCH(gemm_tile_shape)());
  const std::int64_t num_tasks = cut.num_row_cuts * cut.num_column_cuts;
  float* const room = scratch<float>(num_workers(stream, num_tasks) * kGemmScratchFloats);
  parallel_tasks(stream, num_tasks, [&](std::int64_t task, int thread) {
    const std::int64_t row = task % cut.num_row_cuts * cut.rows;
    const std::int64_t column = task / cut.num_row_cuts * cut.columns;
    HWY_DYNAMIC_DISPATCH(gemm_piece)
    (args,
     {.row = row, .num_rows = std::min(cut.rows, args.M - row), .column = column,
      .num_columns = std::min(cut.columns, args.N - column)},
     room + thread * kGemmScratchFloats);
  });
}

}  // namespace dsv::kernels::cpu
#endif
