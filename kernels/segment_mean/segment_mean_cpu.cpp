// A baseline's kernel, bound by memory: plain loops, which the compiler makes vectors of.
#include <algorithm>

#include "cpu/arguments.h"
#include "cpu/parallel.h"
#include "tables/entries.h"

namespace dsv::kernels::cpu {

void segment_mean(const SegmentMean& args, const Stream& stream) {
  require_f32("segment_mean", {&args.x, &args.y});
  const std::int64_t B = args.x.dim(0), C = args.x.dim(2), N = args.start.dim(0) - 1;
  const std::int32_t* const start = args.start.i32();
  parallel_tasks(stream, B * N, [&](std::int64_t task, int) {
    const std::int64_t b = task / N, n = task % N, first = start[n], end = start[n + 1];
    if (first == end) return;
    const float* const x = args.x.f32() + b * args.x.stride(0);
    float* const y = args.y.f32() + b * args.y.stride(0);
    float* const mean = y + first * args.y.stride(1);  // the segment's first row holds the sum
    std::copy_n(x + first * args.x.stride(1), C, mean);
    for (std::int64_t i = first + 1; i < end; ++i) {
      const float* const row = x + i * args.x.stride(1);
      for (std::int64_t c = 0; c < C; ++c) mean[c] += row[c];
    }
    const float inverse = 1.0f / static_cast<float>(end - first);
    for (std::int64_t c = 0; c < C; ++c) mean[c] *= inverse;
    for (std::int64_t i = first + 1; i < end; ++i) std::copy_n(mean, C, y + i * args.y.stride(1));
  });
}

}  // namespace dsv::kernels::cpu
