#define HWY_TARGET_INCLUDE "gated_residual/gated_residual_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include "cpu/map-inl.h"
#include "cpu/parallel.h"
#include "cpu/row_chunks.h"
#include "cpu/scratch.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

// y = x + h over n elements.
void residual(const float* x, const float* h, float* y, std::int64_t n) {
  for_each_vector(n, [=](auto at) HWY_ATTR { at.store(hn::Add(at.load(x), at.load(h)), y); });
}

// y = x + gate * h for rows of C elements under one gate.
void gated_residual(const float* x, const float* h, const float* gate, float* y, std::int64_t rows,
                    std::int64_t C) {
  for (std::int64_t r = 0; r < rows; ++r, x += C, h += C, y += C) {
    for_each_vector(C, [=](auto at) HWY_ATTR {
      at.store(hn::MulAdd(at.load(gate), at.load(h), at.load(x)), y);
    });
  }
}

// dh = gate * dy, and the products dy * h added to `sum`; gate may be null.
template <bool kSum>
HWY_INLINE void backward_rows(const float* h, const float* gate, const float* dy, float* dh,
                              float* sum, std::int64_t rows, std::int64_t C) {
  for (std::int64_t r = 0; r < rows; ++r, dy += C, dh += C) {
    for_each_vector(C, [=](auto at) HWY_ATTR {
      const VecF32 d = at.load(dy);
      if constexpr (kSum) at.store(hn::MulAdd(d, at.load(h), at.load(sum)), sum);
      at.store(gate != nullptr ? hn::Mul(at.load(gate), d) : d, dh);
    });
    if constexpr (kSum) h += C;
  }
}

void gated_residual_rows_backward(const float* h, const float* gate, const float* dy, float* dh,
                                  float* sum, std::int64_t rows, std::int64_t C) {
  sum != nullptr ? backward_rows<true>(h, gate, dy, dh, sum, rows, C)
                 : backward_rows<false>(h, gate, dy, dh, sum, rows, C);
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {

HWY_EXPORT(residual);
HWY_EXPORT(gated_residual);
HWY_EXPORT(gated_residual_rows_backward);

void gated_residual_forward(const GatedResidualForward& args, const Stream& stream) {
  require_f32("gated_residual", {&args.x, &args.h, &args.gate, &args.y});
  const std::int64_t B = args.x.dim(0), S = args.x.dim(1), C = args.x.dim(2);
  const float *x = args.x.f32(), *h = args.h.f32(), *gate = args.gate.f32();
  float* y = args.y.f32();
  if (gate == nullptr) {
    return parallel_for(stream, B * S * C, kElementGrain,
                        [&](std::int64_t begin, std::int64_t end, int) {
                          HWY_DYNAMIC_DISPATCH(residual)
                          (x + begin, h + begin, y + begin, end - begin);
                        });
  }
  const std::int64_t gate_stride = args.gate.stride(0);
  parallel_for(stream, B * S, row_grain(C), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t row = begin; row < end;) {
      const std::int64_t b = row / S, stop = std::min(end, (b + 1) * S);
      HWY_DYNAMIC_DISPATCH(gated_residual)
      (x + row * C, h + row * C, gate + b * gate_stride, y + row * C, stop - row, C);
      row = stop;
    }
  });
}

void gated_residual_backward(const GatedResidualBackward& args, const Stream& stream) {
  require_f32("gated_residual", {&args.h, &args.gate, &args.dy, &args.dh, &args.dgate});
  const std::int64_t B = args.dy.dim(0), S = args.dy.dim(1), C = args.dy.dim(2);
  const std::int64_t num_chunks = num_row_chunks(S);
  const bool sums = args.dgate.defined();
  const float *h = args.h.f32(), *gate = args.gate.f32(), *dy = args.dy.f32();
  float *dh = args.dh.f32(), *const partials = sums ? scratch<float>(B * num_chunks * C) : nullptr;
  const auto run_chunks = [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t b = chunk / num_chunks, s = chunk % num_chunks * kRowsPerChunk;
      const std::int64_t at = (b * S + s) * C;
      float* const sum = sums ? partials + chunk * C : nullptr;
      if (sums) std::fill(sum, sum + C, 0.0f);
      HWY_DYNAMIC_DISPATCH(gated_residual_rows_backward)
      (h + at, gate != nullptr ? gate + b * args.gate.stride(0) : nullptr, dy + at, dh + at, sum,
       std::min(kRowsPerChunk, S - s), C);
    }
  };
  parallel_for(stream, B * num_chunks, chunk_grain(C), run_chunks);
  if (!sums) return;
  parallel_for(stream, C, kColumns, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t b = 0; b < B; ++b) {
      float* dgate = args.dgate.f32() + b * args.dgate.stride(0);
      for (std::int64_t c = begin; c < end; c += kColumns) {
        const std::int64_t num_columns = std::min(kColumns, end - c);
        const ColumnSums total(partials + b * num_chunks * C + c, num_chunks, C, num_columns);
        for (std::int64_t j = 0; j < num_columns; ++j) {
          dgate[c + j] = static_cast<float>(total.sum[j]);
        }
      }
    }
  });
}

}  // namespace dsv::kernels::cpu
#endif
