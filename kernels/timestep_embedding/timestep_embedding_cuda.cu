#include <cmath>

#include "cuda/launch.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// A few thousand numbers a step: one frequency per thread, in double, by the reference's formula.
__global__ void __launch_bounds__(kThreads)
    timestep_embedding_kernel(const float* t, float* y, std::int64_t half, std::int64_t n,
                              double minus_log_of_base) {
  const std::int64_t e = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e >= n) return;
  const std::int64_t b = e / half, i = e % half;
  const double angle = static_cast<double>(t[b]) *
                       exp(minus_log_of_base * static_cast<double>(i) / static_cast<double>(half));
  double sine, cosine;
  sincos(angle, &sine, &cosine);
  y[b * 2 * half + i] = static_cast<float>(cosine);
  y[b * 2 * half + half + i] = static_cast<float>(sine);
}

}  // namespace

void timestep_embedding(const TimestepEmbedding& args, const Stream& stream) {
  require_session(stream);
  require_f32("timestep_embedding", {&args.t, &args.y});
  const std::int64_t half = args.y.dim(1) / 2, n = args.y.dim(0) * half;
  if (n == 0) return;
  timestep_embedding_kernel<<<num_blocks(n, kThreads), kThreads, 0, native(stream)>>>(
      args.t.f32(), args.y.f32(), half, n, -std::log(10000.0));
  DSV_CUDA_LAUNCHED();
}

}  // namespace dsv::kernels::cuda
