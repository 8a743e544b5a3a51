// Scores are never formed: the gradient of a row is a small matrix, summed over all keys, times the
// row, and that of a key a small matrix, summed over the sampled rows, times the key (README.md).
#define HWY_TARGET_INCLUDE "score_stats/predictor_backward_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include <algorithm>

#include "cpu/arguments.h"
#include "cpu/pack-inl.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/tile-inl.h"
#include "score_stats/predictor_loss.h"
#include "score_stats/score_tasks.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// x (count, x_stride) and p (count, padded(r)) of rows from `first` on, filled up with 0.
HWY_INLINE void pack_factors(const FactorRows& from, std::int64_t first, std::int64_t count,
                             std::int64_t x_stride, float* x, float* p) {
  const std::int64_t D = from.main.dim, r = from.low_rank.dim;
  for (std::int64_t i = first; i < first + count; ++i, x += x_stride, p += padded(r)) {
    const std::int64_t row = from.rows != nullptr ? from.rows[i] : i;
    const float *main = from.main.row(row), *low_rank = from.low_rank.row(row);
    const float* const c = from.coefficients;
    const float a = c != nullptr ? c[3 * i] : 1.0f, b = c != nullptr ? c[3 * i + 1] : 1.0f;
    for (std::int64_t w = 0; w < D; ++w) x[w] = a * main[w];
    for (std::int64_t w = 0; w < r; ++w) x[D + w] = b * low_rank[w];
    x[D + r] = c != nullptr ? c[3 * i + 2] : 1.0f;
    std::fill(x + D + r + 1, x + x_stride, 0.0f);
    std::copy_n(low_rank, r, p);
    std::fill(p + r, p + padded(r), 0.0f);
  }
}

// out (kTileRows, columns) = a b.
template <Operand kA, int kVectors>
HWY_NOINLINE void factor_tile(std::int64_t depth, const float* a, std::int64_t a_stride,
                              const float* b, std::int64_t stride, float* out) {
  const F32 d;
  VecF32 acc[kTileRows][kVectors];
  multiply_tile<kA>(depth, a, a_stride, b, stride, acc);
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) hn::StoreU(acc[r][v], d, out + r * stride + v * kLanes);
  }
}

// out (num_rows, width) = a b, filled up to whole tiles of rows; b and out have rows of `width`.
template <Operand kA>
HWY_INLINE void multiply_factors(std::int64_t num_rows, std::int64_t depth, const float* a,
                                 std::int64_t a_stride, const float* b, std::int64_t width,
                                 float* out) {
  for (std::int64_t r = 0; r < num_rows; r += kTileRows) {
    const float* const a_rows = a + r * (kA == Operand::kRowMajor ? a_stride : 1);
    std::int64_t c = 0;
    for (; c + kTileColumns <= width; c += kTileColumns) {
      factor_tile<kA, kTileVectors>(depth, a_rows, a_stride, b + c, width, out + r * width + c);
    }
    for (; c < width; c += kLanes) {
      factor_tile<kA, 1>(depth, a_rows, a_stride, b + c, width, out + r * width + c);
    }
  }
}

void factor_task(const FactorTask& task) {
  const std::int64_t D = task.from.main.dim, r = task.from.low_rank.dim;
  const std::int64_t width = task.from.width(), columns = padded(r);
  const std::int64_t x_stride = padded(width + 12);  // a tile of its columns may end behind them
  float* const x = task.scratch;
  float* const p = x + kRowBlock * x_stride;
  float* const out = p + kRowBlock * columns;
  float* const product = out + kRowBlock * columns;
  const std::int64_t end = task.first + task.count;
  for (std::int64_t first = task.first; first < end; first += kRowBlock) {
    const std::int64_t count = std::min(kRowBlock, end - first);
    pack_factors(task.from, first, count, x_stride, x, p);
    if (task.products != nullptr) {
      multiply_factors<Operand::kDepthMajor>(width, count, x, x_stride, p, columns, product);
      for (std::int64_t i = 0; i < width * columns; ++i) {
        task.products[i] += static_cast<double>(product[i]);
      }
    }
    if (task.out != nullptr) {
      std::fill(x + count * x_stride, x + round_up(count, kTileRows) * x_stride, 0.0f);
      multiply_factors<Operand::kRowMajor>(count, D + r + 1, x, x_stride, task.matrix, columns,
                                           out);
      for (std::int64_t i = 0; i < count; ++i) {
        std::copy_n(out + i * columns, r, task.out + (first - task.first + i) * task.out_stride);
      }
    }
  }
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {
namespace {

HWY_EXPORT(factor_task);

// Loss of one row, and the coefficients of its x: all factors of the gradient are in them.
void weigh_row(const PredictorBackward& args, std::int64_t i, float* coefficients) {
  const PredictorLoss row = predictor_loss(args.stats.f64() + i * kNumScoreColumns,
                                           static_cast<double>(args.num_keys), args.center);
  const double lr_scale = static_cast<double>(args.lr_scale);
  const double factor = static_cast<double>(args.grad_scale) * lr_scale;
  args.loss.f32()[i] = static_cast<float>(row.loss);
  coefficients[0] = static_cast<float>(factor * row.a * static_cast<double>(args.scale));
  coefficients[1] = static_cast<float>(factor * row.b * lr_scale);
  coefficients[2] = static_cast<float>(factor * row.c);
}

}  // namespace

void predictor_backward(const PredictorBackward& args, const Stream& stream) {
  require_f32("predictor_backward",
              {&args.q, &args.k, &args.q_lr, &args.k_lr, &args.loss, &args.dq_lr, &args.dk_lr});
  check_score_dims(args.q, args.q_lr);
  const std::int64_t H = args.q.dim(2), D = args.q.dim(3), r = args.q_lr.dim(3);
  const std::int64_t heads = args.q.dim(0) * H, Skv = args.k.dim(1), R = args.rows.dim(0);
  const std::int64_t row_blocks = ceil_div(R, kRowBlock), row_tasks = heads * row_blocks;
  const KeyChunks chunks(Skv, heads);
  const std::int64_t key_tasks = heads * chunks.count;
  const std::int64_t matrix = factor_rows(D, r) * padded(r), room = factor_scratch_floats(D, r);
  // Partial sums of all tasks, then one matrix of either kind for each head.
  const std::int64_t num_workers_most = num_workers(stream, std::max(row_tasks, key_tasks));
  float* at = scratch<float>(2 * (row_tasks + key_tasks) * matrix + 2 * heads * matrix +
                             round_up(3 * heads * R, 16) + num_workers_most * room);
  const auto take = [&](std::int64_t num_floats) {
    float* const piece = at;
    at += num_floats;
    return piece;
  };
  auto* const row_products = reinterpret_cast<double*>(take(2 * row_tasks * matrix));
  auto* const key_products = reinterpret_cast<double*>(take(2 * key_tasks * matrix));
  float* const of_rows = take(heads * matrix);
  float* const of_keys = take(heads * matrix);
  float* const coefficients = take(round_up(3 * heads * R, 16));
  float* const scratch_of = at;
  parallel_for(stream, heads * R, 1024, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) weigh_row(args, i, coefficients + 3 * i);
  });

  const auto key_factors = [&](std::int64_t b, std::int64_t h) {
    return FactorRows{.main = {args.k, b, h}, .low_rank = {args.k_lr, b, h}};
  };
  const auto row_factors = [&](std::int64_t b, std::int64_t h) {
    return FactorRows{.main = {args.q, b, h},
                      .low_rank = {args.q_lr, b, h},
                      .rows = args.rows.i32(),
                      .coefficients = coefficients + 3 * (b * H + h) * R};
  };
  // sums[head] = the head's partial sums added up, in order.
  const auto add_up = [&](const double* partials, std::int64_t per_head, float* sums) {
    parallel_for(stream, heads * matrix, kElementGrain,
                 [&](std::int64_t begin, std::int64_t end, int) {
                   for (std::int64_t i = begin; i < end; ++i) {
                     double sum = 0;
                     for (std::int64_t n = 0; n < per_head; ++n) {
                       sum += partials[(i / matrix * per_head + n) * matrix + i % matrix];
                     }
                     sums[i] = static_cast<float>(sum);
                   }
                 });
  };
  parallel_tasks(stream, row_tasks, [&](std::int64_t task, int worker) {
    const std::int64_t head = task / row_blocks, first = task % row_blocks * kRowBlock;
    double* const products = row_products + task * matrix;
    std::fill_n(products, matrix, 0.0);
    HWY_DYNAMIC_DISPATCH(factor_task)
    ({.from = row_factors(head / H, head % H),
      .first = first,
      .count = std::min(kRowBlock, R - first),
      .products = products,
      .matrix = nullptr,
      .out = nullptr,
      .out_stride = 0,
      .scratch = scratch_of + worker * room});
  });
  add_up(row_products, row_blocks, of_rows);
  parallel_tasks(stream, key_tasks, [&](std::int64_t task, int worker) {
    const std::int64_t head = task / chunks.count, b = head / H, h = head % H;
    const std::int64_t first = task % chunks.count * chunks.keys;
    double* const products = key_products + task * matrix;
    std::fill_n(products, matrix, 0.0);
    HWY_DYNAMIC_DISPATCH(factor_task)
    ({.from = key_factors(b, h),
      .first = first,
      .count = std::clamp<std::int64_t>(Skv - first, 0, chunks.keys),
      .products = products,
      .matrix = of_rows + head * matrix,
      .out = args.dk_lr.f32() + ((b * Skv + first) * H + h) * r,
      .out_stride = H * r,
      .scratch = scratch_of + worker * room});
  });
  add_up(key_products, chunks.count, of_keys);
  parallel_tasks(stream, row_tasks, [&](std::int64_t task, int worker) {
    const std::int64_t head = task / row_blocks, b = head / H, h = head % H;
    const std::int64_t first = task % row_blocks * kRowBlock;
    HWY_DYNAMIC_DISPATCH(factor_task)
    ({.from = row_factors(b, h),
      .first = first,
      .count = std::min(kRowBlock, R - first),
      .products = nullptr,
      .matrix = of_keys + head * matrix,
      .out = args.dq_lr.f32() + ((b * R + first) * H + h) * r,
      .out_stride = H * r,
      .scratch = scratch_of + worker * room});
  });
}

}  // namespace dsv::kernels::cpu
#endif
