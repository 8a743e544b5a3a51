#define HWY_TARGET_INCLUDE "rms_norm/rms_norm_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include <cmath>

#include "cpu/map-inl.h"
#include "cpu/parallel.h"
#include "cpu/row_chunks.h"
#include "cpu/scratch.h"
#include "tables/entries.h"

#ifndef DSV_RMS_NORM_TYPES
#define DSV_RMS_NORM_TYPES
namespace dsv::kernels::cpu {
struct RmsNormRows {
  const float *x, *weight;
  float *y, *rstd;
  std::int64_t num_rows, C, x_stride, y_stride;
  float eps;
};
struct RmsNormRowsBackward {
  const float *x, *dy, *weight, *rstd;
  float *dx, *sum_dy_xhat;  // sum added to; null: not wanted
  std::int64_t num_rows, C, x_stride, dy_stride, dx_stride;
};
}  // namespace dsv::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

void rms_norm_rows(const RmsNormRows& rows) {
  const VecF32 zero = hn::Zero(F32());
  for (std::int64_t r = 0; r < rows.num_rows; ++r) {
    const float* x = rows.x + r * rows.x_stride;
    float* y = rows.y + r * rows.y_stride;
    VecF32 sums[4] = {zero, zero, zero, zero};
    accumulate_vectors(rows.C, sums, [=](auto at, VecF32& sum) HWY_ATTR {
      const VecF32 v = at.load(x);
      sum = hn::MulAdd(v, v, sum);
    });
    const float square =
        sum_of_lanes(hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])));
    const float rstd = 1.0f / std::sqrt(square / static_cast<float>(rows.C) + rows.eps);
    rows.rstd[r] = rstd;
    const VecF32 v_rstd = hn::Set(F32(), rstd);
    const float* weight = rows.weight;
    for_each_vector(rows.C, [=](auto at) HWY_ATTR {
      at.store(hn::Mul(hn::Mul(at.load(x), v_rstd), at.load(weight)), y);
    });
  }
}

// R rows at once, so that weight and sums are loaded once for all of them.
template <int R>
HWY_INLINE void backward_rows(const RmsNormRowsBackward& rows, std::int64_t first) {
  const VecF32 zero = hn::Zero(F32());
  VecF32 rstd[R], sum_ax[R];
  const float *x[R], *dy[R];
  for (int r = 0; r < R; ++r) {
    x[r] = rows.x + (first + r) * rows.x_stride;
    dy[r] = rows.dy + (first + r) * rows.dy_stride;
    rstd[r] = hn::Set(F32(), rows.rstd[first + r]);
    sum_ax[r] = zero;
  }
  const bool sums = rows.sum_dy_xhat != nullptr;
  for_each_vector(rows.C, [&](auto at) HWY_ATTR {
    const VecF32 weight = at.load(rows.weight);
    VecF32 sum = sums ? at.load(rows.sum_dy_xhat) : zero;
    for (int r = 0; r < R; ++r) {
      const VecF32 d_xhat = hn::Mul(at.load(dy[r]), hn::Mul(at.load(x[r]), rstd[r]));
      sum = hn::Add(sum, d_xhat);
      sum_ax[r] = hn::MulAdd(d_xhat, weight, sum_ax[r]);
    }
    if (sums) at.store(sum, rows.sum_dy_xhat);
  });
  for (int r = 0; r < R; ++r) {
    const VecF32 mean_ax = hn::Set(F32(), sum_of_lanes(sum_ax[r]) / static_cast<float>(rows.C));
    const VecF32 s = rstd[r];
    const float *x_row = x[r], *dy_row = dy[r];
    float* dx = rows.dx + (first + r) * rows.dx_stride;
    for_each_vector(rows.C, [=, &rows](auto at) HWY_ATTR {
      const VecF32 a = hn::Mul(at.load(dy_row), at.load(rows.weight));
      at.store(hn::Mul(s, hn::NegMulAdd(hn::Mul(at.load(x_row), s), mean_ax, a)), dx);
    });
  }
}

void rms_norm_rows_backward(const RmsNormRowsBackward& rows) {
  std::int64_t r = 0;
  for (; r + 4 <= rows.num_rows; r += 4) backward_rows<4>(rows, r);
  for (; r < rows.num_rows; ++r) backward_rows<1>(rows, r);
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {

HWY_EXPORT(rms_norm_rows);
HWY_EXPORT(rms_norm_rows_backward);

void rms_norm_forward(const RmsNormForward& args, const Stream& stream) {
  require_f32("rms_norm", {&args.x, &args.weight, &args.y, &args.rstd});
  const std::int64_t rows = args.x.dim(0), C = args.x.dim(1);
  RmsNormRows all{.x = args.x.f32(),
                  .weight = args.weight.f32(),
                  .y = args.y.f32(),
                  .rstd = args.rstd.f32(),
                  .num_rows = rows,
                  .C = C,
                  .x_stride = args.x.stride(0),
                  .y_stride = args.y.stride(0),
                  .eps = args.eps};
  parallel_for(stream, rows, row_grain(C), [&](std::int64_t begin, std::int64_t end, int) {
    RmsNormRows share = all;
    share.x += begin * all.x_stride;
    share.y += begin * all.y_stride;
    share.rstd += begin;
    share.num_rows = end - begin;
    HWY_DYNAMIC_DISPATCH(rms_norm_rows)(share);
  });
}

void rms_norm_backward(const RmsNormBackward& args, const Stream& stream) {
  require_f32("rms_norm", {&args.x, &args.weight, &args.rstd, &args.dy, &args.dx, &args.dweight});
  const std::int64_t rows = args.x.dim(0), C = args.x.dim(1);
  const std::int64_t num_chunks = num_row_chunks(rows);
  const bool sums = args.dweight.defined();
  float* const partials = sums ? scratch<float>(num_chunks * C) : nullptr;
  const RmsNormRowsBackward all{.x = args.x.f32(),
                                .dy = args.dy.f32(),
                                .weight = args.weight.f32(),
                                .rstd = args.rstd.f32(),
                                .dx = args.dx.f32(),
                                .sum_dy_xhat = nullptr,
                                .num_rows = rows,
                                .C = C,
                                .x_stride = args.x.stride(0),
                                .dy_stride = args.dy.stride(0),
                                .dx_stride = args.dx.stride(0)};
  parallel_for(stream, num_chunks, chunk_grain(C), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t row = chunk * kRowsPerChunk;
      RmsNormRowsBackward share = all;
      share.x += row * all.x_stride;
      share.dy += row * all.dy_stride;
      share.dx += row * all.dx_stride;
      share.rstd += row;
      share.num_rows = std::min(kRowsPerChunk, rows - row);
      if (sums) {
        share.sum_dy_xhat = partials + chunk * C;
        std::fill(share.sum_dy_xhat, share.sum_dy_xhat + C, 0.0f);
      }
      HWY_DYNAMIC_DISPATCH(rms_norm_rows_backward)(share);
    }
  });
  if (!sums) return;
  float* dweight = args.dweight.f32();
  parallel_for(stream, C, kColumns, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t c = begin; c < end; c += kColumns) {
      const std::int64_t num_columns = std::min(kColumns, end - c);
      const ColumnSums total(partials + c, num_chunks, C, num_columns);
      for (std::int64_t j = 0; j < num_columns; ++j) {
        dweight[c + j] = static_cast<float>(static_cast<double>(dweight[c + j]) + total.sum[j]);
      }
    }
  });
}

}  // namespace dsv::kernels::cpu
#endif
