// Affine and modulation are one gain and one offset per sample and channel: y = xhat * gain +
// offset with gain = weight (1 + scale), offset = bias (1 + scale) + shift. Backward, all four
// parameter gradients follow from two sums over rows: sum dy and sum dy * xhat.
#define HWY_TARGET_INCLUDE "layer_norm/layer_norm_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include <cmath>

#include "cpu/map-inl.h"
#include "cpu/parallel.h"
#include "cpu/row_chunks.h"
#include "cpu/scratch.h"
#include "tables/entries.h"

#ifndef DSV_LAYER_NORM_TYPES
#define DSV_LAYER_NORM_TYPES
namespace dsv::kernels::cpu {
// Rows of one sample, C elements each.
struct LayerNormRows {
  const float *x, *gain, *offset;
  float *y, *mean, *rstd;
  std::int64_t num_rows, C;
  float eps;
};
struct LayerNormRowsBackward {
  const float *x, *dy, *gain, *mean, *rstd;
  float *dx, *sum_dy, *sum_dy_xhat;  // sums added to; null: not wanted
  std::int64_t num_rows, C;
  bool accumulate_dx;
};
}  // namespace dsv::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

void layer_norm_rows(const LayerNormRows& rows) {
  const std::int64_t C = rows.C;
  const float inverse_C = 1.0f / static_cast<float>(C);
  const VecF32 zero = hn::Zero(F32());
  for (std::int64_t r = 0; r < rows.num_rows; ++r) {
    const float* x = rows.x + r * C;
    float* y = rows.y + r * C;
    VecF32 sums[4] = {zero, zero, zero, zero};
    accumulate_vectors(C, sums,
                       [=](auto at, VecF32& sum) HWY_ATTR { sum = hn::Add(sum, at.load(x)); });
    const float guess = sum_of_lanes(sums) * inverse_C;

    // The guess is off by the rounding of a sum of large numbers; what is left of the mean once it
    // is taken away has no such error.
    struct Moments {
      VecF32 first, second;
    };
    Moments m[4] = {{zero, zero}, {zero, zero}, {zero, zero}, {zero, zero}};
    const VecF32 v_guess = hn::Set(F32(), guess);
    accumulate_vectors(C, m, [=](auto at, Moments& moments) HWY_ATTR {
      const VecF32 d = at.keep(hn::Sub(at.load(x), v_guess));
      moments.first = hn::Add(moments.first, d);
      moments.second = hn::MulAdd(d, d, moments.second);
    });
    const VecF32 first[4] = {m[0].first, m[1].first, m[2].first, m[3].first};
    const VecF32 second[4] = {m[0].second, m[1].second, m[2].second, m[3].second};
    const float rest = sum_of_lanes(first) * inverse_C;
    const float square = sum_of_lanes(second) * inverse_C;
    const float variance = square - rest * rest < 0 ? 0.0f : square - rest * rest;
    const float rstd = 1.0f / std::sqrt(variance + rows.eps);
    rows.mean[r] = guess + rest;
    rows.rstd[r] = rstd;

    const VecF32 v_rest = hn::Set(F32(), rest), v_rstd = hn::Set(F32(), rstd);
    const float *gain = rows.gain, *offset = rows.offset;
    for_each_vector(C, [=](auto at) HWY_ATTR {
      const VecF32 centred = hn::Sub(hn::Sub(at.load(x), v_guess), v_rest);
      at.store(hn::MulAdd(hn::Mul(centred, v_rstd), at.load(gain), at.load(offset)), y);
    });
  }
}

// Row by row: several rows at once would load gain and sums less often, but leave the prefetcher
// many short streams, and run at two thirds of the speed.
template <bool kSums>
HWY_INLINE void backward_rows(const LayerNormRowsBackward& rows) {
  const std::int64_t C = rows.C;
  const float inverse_C = 1.0f / static_cast<float>(C);
  const VecF32 zero = hn::Zero(F32());
  const float* gain = rows.gain;
  float *sum_dy = rows.sum_dy, *sum_dy_xhat = rows.sum_dy_xhat;
  for (std::int64_t r = 0; r < rows.num_rows; ++r) {
    const float *x = rows.x + r * C, *dy = rows.dy + r * C;
    float* dx = rows.dx + r * C;
    const VecF32 mean = hn::Set(F32(), rows.mean[r]), rstd = hn::Set(F32(), rows.rstd[r]);
    struct Sums {
      VecF32 a, ax;
    };
    Sums sums[4] = {{zero, zero}, {zero, zero}, {zero, zero}, {zero, zero}};
    accumulate_vectors(C, sums, [=](auto at, Sums& sum) HWY_ATTR {
      const VecF32 d = at.load(dy);
      const VecF32 xhat = hn::Mul(hn::Sub(at.load(x), mean), rstd);
      const VecF32 a = hn::Mul(d, at.load(gain));
      sum.a = hn::Add(sum.a, a);
      sum.ax = hn::MulAdd(a, xhat, sum.ax);
      if constexpr (kSums) {
        at.store(hn::Add(at.load(sum_dy), d), sum_dy);
        at.store(hn::MulAdd(d, xhat, at.load(sum_dy_xhat)), sum_dy_xhat);
      }
    });
    const VecF32 a_parts[4] = {sums[0].a, sums[1].a, sums[2].a, sums[3].a};
    const VecF32 ax_parts[4] = {sums[0].ax, sums[1].ax, sums[2].ax, sums[3].ax};
    const VecF32 mean_a = hn::Set(F32(), sum_of_lanes(a_parts) * inverse_C);
    const VecF32 mean_ax = hn::Set(F32(), sum_of_lanes(ax_parts) * inverse_C);
    const auto gradient = [=](auto at) HWY_ATTR {
      const VecF32 xhat = hn::Mul(hn::Sub(at.load(x), mean), rstd);
      const VecF32 a = hn::Sub(hn::Mul(at.load(dy), at.load(gain)), mean_a);
      return hn::Mul(rstd, hn::NegMulAdd(xhat, mean_ax, a));
    };
    if (rows.accumulate_dx) {
      for_each_vector(C,
                      [=](auto at) HWY_ATTR { at.store(hn::Add(at.load(dx), gradient(at)), dx); });
    } else {
      for_each_vector(C, [=](auto at) HWY_ATTR { at.store(gradient(at), dx); });
    }
  }
}

void layer_norm_rows_backward(const LayerNormRowsBackward& rows) {
  rows.sum_dy != nullptr ? backward_rows<true>(rows) : backward_rows<false>(rows);
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {
namespace {

HWY_EXPORT(layer_norm_rows);
HWY_EXPORT(layer_norm_rows_backward);

const float* row_of(const Tensor& table, std::int64_t b) {
  return table.defined() ? table.f32() + b * table.stride(0) : nullptr;
}

// gain[c] and, where offset is not null, offset[c] of sample b.
void combine(const float* weight, const float* bias, const float* scale, const float* shift,
             std::int64_t C, float* gain, float* offset) {
  for (std::int64_t c = 0; c < C; ++c) {
    const float modulation = scale != nullptr ? 1.0f + scale[c] : 1.0f;
    gain[c] = weight != nullptr ? weight[c] * modulation : modulation;
    if (offset == nullptr) continue;
    offset[c] =
        (bias != nullptr ? bias[c] * modulation : 0.0f) + (shift != nullptr ? shift[c] : 0.0f);
  }
}

// The sums of all chunks become the parameter gradients of columns [begin, end).
void parameter_gradients(const LayerNormBackward& args, const float* partials, std::int64_t begin,
                         std::int64_t end) {
  const std::int64_t B = args.x.dim(0), S = args.x.dim(1), C = args.x.dim(2);
  const std::int64_t num_chunks = num_row_chunks(S);
  for (std::int64_t c0 = begin; c0 < end; c0 += kColumns) {
    const std::int64_t num_columns = std::min(kColumns, end - c0);
    double dweight[kColumns] = {}, dbias[kColumns] = {};
    for (std::int64_t b = 0; b < B; ++b) {
      const float* sample = partials + b * num_chunks * 2 * C + c0;
      const ColumnSums sum_dy(sample, num_chunks, 2 * C, num_columns);
      const ColumnSums sum_dy_xhat(sample + C, num_chunks, 2 * C, num_columns);
      for (std::int64_t j = 0; j < num_columns; ++j) {
        const std::int64_t c = c0 + j;
        const double w = args.weight ? static_cast<double>(args.weight.f32()[c]) : 1.0;
        const double bias = args.bias ? static_cast<double>(args.bias.f32()[c]) : 0.0;
        const double modulation =
            args.scale ? 1.0 + static_cast<double>(row_of(args.scale, b)[c]) : 1.0;
        if (args.dscale) {
          args.dscale.f32()[b * args.dscale.stride(0) + c] =
              static_cast<float>(w * sum_dy_xhat.sum[j] + bias * sum_dy.sum[j]);
        }
        if (args.dshift) {
          args.dshift.f32()[b * args.dshift.stride(0) + c] = static_cast<float>(sum_dy.sum[j]);
        }
        dweight[j] += modulation * sum_dy_xhat.sum[j];
        dbias[j] += modulation * sum_dy.sum[j];
      }
    }
    for (std::int64_t j = 0; j < num_columns; ++j) {
      const auto add = [&](const Tensor& to, double value) {
        if (to)
          to.f32()[c0 + j] = static_cast<float>(static_cast<double>(to.f32()[c0 + j]) + value);
      };
      add(args.dweight, dweight[j]);
      add(args.dbias, dbias[j]);
    }
  }
}

}  // namespace

void layer_norm_forward(const LayerNormForward& args, const Stream& stream) {
  require_f32("layer_norm", {&args.x, &args.weight, &args.bias, &args.scale, &args.shift, &args.y,
                             &args.mean, &args.rstd});
  const std::int64_t B = args.x.dim(0), S = args.x.dim(1), C = args.x.dim(2);
  if (B * S * C == 0) return;
  float* const table = scratch<float>(2 * B * C);
  const float *weight = args.weight.f32(), *bias = args.bias.f32();
  for (std::int64_t b = 0; b < B; ++b) {
    combine(weight, bias, row_of(args.scale, b), row_of(args.shift, b), C, table + 2 * b * C,
            table + (2 * b + 1) * C);
  }
  const float* x = args.x.f32();
  float *y = args.y.f32(), *mean = args.mean.f32(), *rstd = args.rstd.f32();
  parallel_for(stream, B * S, row_grain(C), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t row = begin; row < end;) {
      const std::int64_t b = row / S, stop = std::min(end, (b + 1) * S);
      HWY_DYNAMIC_DISPATCH(layer_norm_rows)
      ({.x = x + row * C,
        .gain = table + 2 * b * C,
        .offset = table + (2 * b + 1) * C,
        .y = y + row * C,
        .mean = mean + row,
        .rstd = rstd + row,
        .num_rows = stop - row,
        .C = C,
        .eps = args.eps});
      row = stop;
    }
  });
}

void layer_norm_backward(const LayerNormBackward& args, const Stream& stream) {
  require_f32("layer_norm",
              {&args.x, &args.weight, &args.bias, &args.scale, &args.mean, &args.rstd, &args.dy,
               &args.dx, &args.dweight, &args.dbias, &args.dscale, &args.dshift});
  const std::int64_t B = args.x.dim(0), S = args.x.dim(1), C = args.x.dim(2);
  const std::int64_t num_chunks = num_row_chunks(S);
  const bool sums = args.dweight || args.dbias || args.dscale || args.dshift;
  float* const gain = scratch<float>(B * C + (sums ? B * num_chunks * 2 * C : 0));
  float* const partials = gain + B * C;
  for (std::int64_t b = 0; b < B; ++b) {
    combine(args.weight.f32(), nullptr, row_of(args.scale, b), nullptr, C, gain + b * C, nullptr);
  }
  const float *x = args.x.f32(), *dy = args.dy.f32(), *mean = args.mean.f32(),
              *rstd = args.rstd.f32();
  float* dx = args.dx.f32();
  const auto run_chunks = [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t b = chunk / num_chunks, s = chunk % num_chunks * kRowsPerChunk;
      const std::int64_t row = b * S + s;
      float* const sum = sums ? partials + chunk * 2 * C : nullptr;
      if (sums) std::fill(sum, sum + 2 * C, 0.0f);
      HWY_DYNAMIC_DISPATCH(layer_norm_rows_backward)
      ({.x = x + row * C,
        .dy = dy + row * C,
        .gain = gain + b * C,
        .mean = mean + row,
        .rstd = rstd + row,
        .dx = dx + row * C,
        .sum_dy = sum,
        .sum_dy_xhat = sums ? sum + C : nullptr,
        .num_rows = std::min(kRowsPerChunk, S - s),
        .C = C,
        .accumulate_dx = args.accumulate_dx});
    }
  };
  parallel_for(stream, B * num_chunks, chunk_grain(C), run_chunks);
  if (!sums) return;
  parallel_for(stream, C, kColumns, [&](std::int64_t begin, std::int64_t end, int) {
    parameter_gradients(args, partials, begin, end);
  });
}

}  // namespace dsv::kernels::cpu
#endif
