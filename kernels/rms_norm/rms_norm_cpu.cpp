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
    const float square = sum_of_lanes(sums);
    const float rstd = 1.0f / std::sqrt(square / static_cast<float>(rows.C) + rows.eps);
    rows.rstd[r] = rstd;
    const VecF32 v_rstd = hn::Set(F32(), rstd);
    const float* weight = rows.weight;
    for_each_vector(rows.C, [=](auto at) HWY_ATTR {
      at.store(hn::Mul(hn::Mul(at.load(x), v_rstd), at.load(weight)), y);
    });
  }
}

// Row by row: several rows at once would load weight and sum less often, but leave the prefetcher
// many short streams, and run at two thirds of the speed.
void rms_norm_rows_backward(const RmsNormRowsBackward& rows) {
  const VecF32 zero = hn::Zero(F32());
  const float* weight = rows.weight;
  float* sum = rows.sum_dy_xhat;
  for (std::int64_t r = 0; r < rows.num_rows; ++r) {
    const float *x = rows.x + r * rows.x_stride, *dy = rows.dy + r * rows.dy_stride;
    float* dx = rows.dx + r * rows.dx_stride;
    const VecF32 rstd = hn::Set(F32(), rows.rstd[r]);
    VecF32 sums[4] = {zero, zero, zero, zero};
    accumulate_vectors(rows.C, sums, [=](auto at, VecF32& sum_ax) HWY_ATTR {
      const VecF32 d_xhat = hn::Mul(at.load(dy), hn::Mul(at.load(x), rstd));
      if (sum != nullptr) at.store(hn::Add(at.load(sum), d_xhat), sum);
      sum_ax = hn::MulAdd(d_xhat, at.load(weight), sum_ax);
    });
    const VecF32 mean_ax = hn::Set(F32(), sum_of_lanes(sums) / static_cast<float>(rows.C));
    for_each_vector(rows.C, [=](auto at) HWY_ATTR {
      const VecF32 a = hn::Mul(at.load(dy), at.load(weight));
      at.store(hn::Mul(rstd, hn::NegMulAdd(hn::Mul(at.load(x), rstd), mean_ax, a)), dx);
    });
  }
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
