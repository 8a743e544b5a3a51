#define HWY_TARGET_INCLUDE "broadcast_add/broadcast_add_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include "cpu/map-inl.h"
#include "cpu/parallel.h"
#include "cpu/row_chunks.h"
#include "tables/entries.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

void add_arrays(const float* x, const float* row, float* y, std::int64_t n) {
  for_each_vector(n, [=](auto at) HWY_ATTR { at.store(hn::Add(at.load(x), at.load(row)), y); });
}

// drow[n] += sum_b dy[b, n] for `n` columns of rows N apart. Blocks of rows are added up first, so
// that a long sum does not lose its small terms.
void add_columns(const float* dy, float* drow, std::int64_t B, std::int64_t N, std::int64_t n) {
  for_each_vector(n, [=](auto at) HWY_ATTR {
    VecF32 total = hn::Zero(F32());
    for (std::int64_t b0 = 0; b0 < B; b0 += kRowsPerChunk) {
      const std::int64_t end = b0 + kRowsPerChunk < B ? b0 + kRowsPerChunk : B;
      VecF32 block = hn::Zero(F32());
      for (std::int64_t b = b0; b < end; ++b) block = hn::Add(block, at.load(dy + b * N));
      total = hn::Add(total, block);
    }
    at.store(hn::Add(at.load(drow), total), drow);
  });
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {

HWY_EXPORT(add_arrays);
HWY_EXPORT(add_columns);

void broadcast_add_forward(const BroadcastAddForward& args, const Stream& stream) {
  require_f32("broadcast_add", {&args.x, &args.row, &args.y});
  const std::int64_t B = args.x.dim(0), N = args.x.dim(1);
  const float *x = args.x.f32(), *row = args.row.f32();
  float* y = args.y.f32();
  parallel_for(stream, B * N, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t e = begin; e < end;) {
      const std::int64_t stop = std::min(end, (e / N + 1) * N);
      HWY_DYNAMIC_DISPATCH(add_arrays)(x + e, row + e % N, y + e, stop - e);
      e = stop;
    }
  });
}

void broadcast_add_backward(const BroadcastAddBackward& args, const Stream& stream) {
  require_f32("broadcast_add", {&args.dy, &args.drow});
  const std::int64_t B = args.dy.dim(0), N = args.dy.dim(1);
  const float* dy = args.dy.f32();
  float* drow = args.drow.f32();
  const std::int64_t grain =
      std::max(kColumns, kElementGrain / std::max<std::int64_t>(1, B) / kColumns * kColumns);
  parallel_for(stream, N, grain, [&](std::int64_t begin, std::int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(add_columns)(dy + begin, drow + begin, B, N, end - begin);
  });
}

}  // namespace dsv::kernels::cpu
#endif
