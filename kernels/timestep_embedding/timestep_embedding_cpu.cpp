#include <cmath>

#include "cpu/arguments.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "tables/entries.h"

namespace dsv::kernels::cpu {

// A few thousand numbers per step: the frequencies are computed once, the rest is libm in double.
void timestep_embedding(const TimestepEmbedding& args, const Stream& stream) {
  require_f32("timestep_embedding", {&args.t, &args.y});
  const std::int64_t B = args.y.dim(0), half = args.y.dim(1) / 2;
  const float* t = args.t.f32();
  float* y = args.y.f32();
  double* const frequency = scratch<double>(half);
  for (std::int64_t i = 0; i < half; ++i) {
    frequency[i] =
        std::exp(-std::log(10000.0) * static_cast<double>(i) / static_cast<double>(half));
  }
  constexpr std::int64_t kGrain = 512;  // about 20 us
  parallel_for(stream, B * half, kGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t e = begin; e < end; ++e) {
      const std::int64_t b = e / half, i = e % half;
      const double angle = static_cast<double>(t[b]) * frequency[i];
      y[b * 2 * half + i] = static_cast<float>(std::cos(angle));
      y[b * 2 * half + half + i] = static_cast<float>(std::sin(angle));
    }
  });
}

}  // namespace dsv::kernels::cpu
